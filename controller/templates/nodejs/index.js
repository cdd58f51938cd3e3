// What is returned is the answer: an object with a statusCode, or anything that JSON can say.
exports.handler = async (event) => {
  const name = event.queryStringParameters?.name ?? 'world';
  return { statusCode: 200, headers: { 'content-type': 'text/plain' }, body: `Hello, ${name}!\n` };
};
