// The event handler under plain node:http, as a program of its own would run it: node event.js FILE PORT [ADDRESS]
const handler = require(process.argv[2]).handler;

require('node:http')
  .createServer(async (req, res) => {
    const body = JSON.stringify(await handler({ rawPath: req.url, headers: req.headers }));
    res.writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) });
    res.end(body);
  })
  .listen(Number(process.argv[3]), process.argv[4] ?? '127.0.0.1');
