exports.handler = async (event) => {
  const name = event.queryStringParameters?.name ?? 'world';
  return { message: `Hello, ${name}!` };
};
