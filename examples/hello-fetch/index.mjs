export async function handler(request) {
  if (request.method === 'GET') return new Response('Hello, fetch!\n');
  const { name } = await request.json();
  return Response.json({ message: `Hello, ${name}!` }, { status: 201 });
}
