// Says hello over a WebSocket and prints what comes back: node client.js ws://127.0.0.1:8080/websocket
const crypto = require('node:crypto');
const http = require('node:http');

const url = new URL(process.argv[2].replace(/^ws/, 'http'));
const key = crypto.randomBytes(16).toString('base64');
const headers = { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': 13, 'sec-websocket-key': key };

/** A text frame, masked as a client's must be. */
function frame(text) {
  const mask = crypto.randomBytes(4);
  const body = Buffer.from(text).map((byte, at) => byte ^ mask[at % 4]);
  return Buffer.concat([Buffer.from([0x81, 0x80 | body.length]), mask, body]);
}

http.get(url, { headers }, (res) => {
  console.error(`no WebSocket here: ${res.statusCode}`);
  process.exit(1);
}).on('upgrade', (res, socket, head) => {
  let received = head;
  const read = (chunk) => {
    received = Buffer.concat([received, chunk]);
    // Short, unmasked text frames: two bytes of head and the text.
    while (received.length > 2 && received.length >= 2 + received[1]) {
      const text = received.subarray(2, 2 + received[1]).toString();
      received = received.subarray(2 + received[1]);
      console.log(text);
      if (text === 'hello') socket.write(frame('good day'));
      else socket.end();
    }
  };
  socket.on('data', read);
  read(Buffer.alloc(0));
});
