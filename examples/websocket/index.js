const { WebSocketServer } = require('ws');

const server = new WebSocketServer({ noServer: true });

server.on('connection', (socket) => {
  socket.send('hello');
  socket.on('message', (data) => socket.send(`you said: ${data}`));
});

exports.handler = (req, res) => res.writeHead(426, { 'content-type': 'text/plain' }).end('Connect with a WebSocket.\n');

// Called when a client asks for another protocol, with what the `upgrade` event of node:http gives.
exports.upgrade = (req, socket, head) =>
  server.handleUpgrade(req, socket, head, (client) => server.emit('connection', client, req));
