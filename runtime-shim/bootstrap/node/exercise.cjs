'use strict';
// What a pooled instance does before it knows its function, when it is pinged for the first time: loads and calls of the event and http
// signatures, with handlers of the bootstrap's own, on connections that lead nowhere. What Node loads and compiles lazily on that way is
// there when the function comes: its load takes 1 ms then, and not 4.
//
// The fetch signature is not among them: what it needs of Node takes 30 ms and 12 MiB, for functions that mostly are none.
//
// Nothing of it stays but compiled code: the working directory, the environment and the module cache are as they were.

const path = require('path');
const { Duplex } = require('stream');
const { Connection } = require('./connection.cjs');
const logs = require('./logs.cjs');

const CODE = path.join(__dirname, 'exercise');
const HELLO = 1, LOAD = 3, INVOKE = 5, PING = 15;
/** Rounds of calls: enough for the first tier of compilation, and a few milliseconds. */
const ROUNDS = 20;

const EVENT = {
  version: '2.0', routeKey: '$default', rawPath: '/', rawQueryString: '', headers: { host: 'localhost' },
  requestContext: { http: { method: 'GET', path: '/', protocol: 'HTTP/1.1', sourceIp: '127.0.0.1' } }, isBase64Encoded: false,
};

/** A socket that takes everything and says nothing. */
function nowhere() {
  return { writable: true, writableLength: 0, on() {}, removeListener() {}, write: () => true, end() {} };
}

function frame(kind, stream, flags, payload) {
  const bytes = Buffer.alloc(10 + payload.length);
  bytes.writeUInt32BE(payload.length, 0);
  bytes[4] = kind;
  bytes[5] = flags;
  bytes.writeUInt32BE(stream, 6);
  payload.copy(bytes, 10);
  return bytes;
}

function json(kind, body) {
  return frame(kind, 0, 0, Buffer.from(JSON.stringify(body)));
}

function invoke(stream, head) {
  const id = Buffer.from('exercise');
  const text = Buffer.from(JSON.stringify(head));
  const payload = Buffer.alloc(4 + 1 + id.length + 4 + text.length);
  payload.writeUInt32BE(1000, 0);
  payload[4] = id.length;
  id.copy(payload, 5);
  payload.writeUInt32BE(text.length, 5 + id.length);
  text.copy(payload, 9 + id.length);
  return frame(INVOKE, stream, 1, payload);
}

/** A state like the bootstrap's own, for a function that does not exist. */
function stage(boot, concurrency) {
  return {
    boot, handler: null, loading: false, concurrency, serial: concurrency <= 1, served: 0, running: 0, draining: false, connections: new Set(),
    callEnded() {
      this.served++;
      this.running--;
    },
    expected: 0,
    expect: () => () => {},
  };
}

async function load(boot, handler, signature, concurrency) {
  const state = stage(boot, concurrency);
  const connection = new Connection(state, nowhere());
  connection.take(json(HELLO, { minVersion: 1, maxVersion: 1, secret: boot.secret, role: 'invoke' }));
  connection.take(json(LOAD, {
    code: CODE, handler, signature, env: {}, function: 'exercise', namespace: 'exercise', revision: 'exercise-00001', concurrency,
    memoryBytes: boot.memoryBytes, executeTimeoutMs: 1000,
  }));
  for (let turns = 0; state.handler === null && turns < 1000; turns++) await new Promise(setImmediate);
  return { state, connection };
}

async function calls(boot, handler, signature, concurrency) {
  const { state, connection } = await load(boot, handler, signature, concurrency);
  if (state.handler === null) return;
  for (let round = 1; round <= ROUNDS; round++) {
    connection.take(Buffer.concat([frame(PING, 0, 0, Buffer.alloc(8)), invoke(round, EVENT)]));
    for (let turns = 0; state.running > 0 && turns < 1000; turns++) await new Promise(setImmediate);
  }
}

/** A request to a server of Node's own, over a connection that is none. */
async function request(boot) {
  const { state } = await load(boot, 'handler.serve', 'http', 2);
  if (state.handler === null) return;
  await new Promise((resolve) => {
    const socket = new Duplex({
      read() {},
      write(chunk, encoding, done) {
        done();
        resolve();
      },
    });
    socket.on('error', () => {});
    state.handler.attach(socket);
    socket.push('GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n');
    setTimeout(resolve, 100).unref();
  });
}

/** Does all of it; never fails: what goes wrong here is slower later, and no more. */
async function exercise(boot) {
  const directory = process.cwd();
  logs.rehearse(true);
  try {
    // The streams are made when they are first looked at.
    void process.stdout.writable;
    void process.stderr.writable;
    logs.describe({ of: 'anything' });
    // One call at a time, and several: what is printed is told apart in two ways.
    await calls(boot, 'handler.handler', 'auto', 1);
    await calls(boot, 'handler.value', 'event', 2);
    await calls(boot, 'module.handler', 'event', 2);
    await request(boot);
  } catch {
    // See above.
  }
  logs.rehearse(false);
  process.chdir(directory);
  for (const file of Object.keys(require.cache)) {
    if (file.startsWith(CODE + path.sep)) delete require.cache[file];
  }
}

module.exports = { exercise };
