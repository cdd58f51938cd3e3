const { setTimeout: wait } = require('node:timers/promises');

exports.handler = async (req, res) => {
  const times = Math.min(Number(new URL(req.url, 'http://localhost').searchParams.get('times') ?? 5), 1000);
  res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
  for (let tick = 1; tick <= times && !res.destroyed; tick += 1) {
    res.write(`event: tick\ndata: ${tick}\n\n`);
    await wait(100);
  }
  res.end();
};
