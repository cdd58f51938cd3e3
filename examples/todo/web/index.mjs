// The server for the page: it hands the page out and puts together what the page asks for. It keeps nothing.
import { readFileSync } from 'node:fs';

const page = readFileSync(new URL('./page.html', import.meta.url));

/** Calls another function through the gateway. */
const call = (name, path, init) => fetch(`${process.env.HEARTH_GATEWAY}/function/default/${name}${path}`, init);

/** An answer of another function, passed on as it is. */
const pass = (answer) =>
  new Response(answer.body, { status: answer.status, headers: { 'content-type': answer.headers.get('content-type') ?? 'text/plain' } });

export async function handler(request) {
  const path = new URL(request.url).pathname.replace(/^\/todo\/?/, '/');
  const { method } = request;

  if (path === '/' && method === 'GET') return new Response(page, { headers: { 'content-type': 'text/html; charset=utf-8' } });

  const authorization = request.headers.get('authorization') ?? '';
  const headers = { authorization, 'content-type': 'application/json' };
  const body = ['GET', 'HEAD', 'DELETE'].includes(method) ? undefined : await request.text();

  if (path === '/api/session' && method === 'POST') return pass(await call('user', '/users', { method, headers, body }));

  // What the page shows first: the user and the list, asked for at once.
  if (path === '/api/overview' && method === 'GET') {
    const [user, todos] = await Promise.all([call('user', '/me', { headers }), call('rule', '/todos', { headers })]);
    if (!user.ok) return pass(user);
    if (!todos.ok) return pass(todos);
    const list = await todos.json();
    return Response.json({ user: await user.json(), todos: list, open: list.filter((todo) => !todo.done).length });
  }

  if (path.startsWith('/api/todos')) return pass(await call('rule', path.slice('/api'.length), { method, headers, body }));

  return Response.json({ error: 'no such page' }, { status: 404 });
}
