'use strict';
// The Node bootstrap: speaks Hearth's invocation protocol (crates/protocol) on the listening socket it inherits, loads the user's handler,
// and calls it. Everything that a first `welcome` does not need is required later: the cold start is Node's own.
//
// Descriptors: 3 listening socket, 4 log records to the shim, 5 boot configuration (JSON, read once).

const fs = require('fs');
const net = require('net');

const boot = JSON.parse(fs.readFileSync(5, 'utf8'));
fs.closeSync(5);

const logs = require('./logs.cjs');
const { Connection } = require('./connection.cjs');

// One state for all connections of this process.
const state = {
  boot,
  handler: null, // what `load` made: { signature, invoke(call), attach(socket) }
  loading: false,
  concurrency: boot.concurrency, // calls that may run at once
  serial: boot.concurrency <= 1,
  served: 0,
  running: 0,
  expected: 0, // attached connections whose first request has not come yet
  draining: false,
  connections: new Set(),
  server: null,
  /** What a ping before the load asks for, once. */
  exercise: () => require('./exercise.cjs').exercise(boot),

  /** A call has ended; the last one of a process that is to end ends it. */
  callEnded() {
    state.served++;
    state.running--;
    if (state.draining) endIfIdle();
  },

  /** A request is about to come. Returns what says that it has, or that none will. */
  expect() {
    state.expected++;
    return once(() => {
      state.expected--;
      if (state.draining) endIfIdle();
    });
  },

  /** No new calls; the process ends after the last one, and says so to those that are connected. It listens until then: whoever cannot connect
   * takes it for lost, with the calls that run, and has it killed. */
  drain() {
    if (state.draining) return;
    state.draining = true;
    for (const connection of state.connections) connection.tellEnding();
    if (state.handler && state.handler.drain) state.handler.drain();
    endIfIdle();
  },

  /** Ends the process with what it has still to say written. */
  exit(code) {
    for (const connection of state.connections) connection.flush();
    logs.flush();
    process.exitCode = code;
    let waiting = 1;
    const done = () => {
      if (--waiting === 0) process.reallyExit(code);
    };
    for (const connection of state.connections) {
      if (connection.socket.writableLength > 0) {
        waiting++;
        connection.socket.once('close', done);
      }
      connection.socket.end();
    }
    // A peer that does not read must not keep a broken process alive.
    setTimeout(() => process.reallyExit(code), 500);
    done();
  },
};

function endIfIdle() {
  const idle = () => state.running === 0 && state.expected === 0;
  if (idle()) setImmediate(() => idle() && state.exit(0));
}

function once(act) {
  let done = false;
  return () => {
    if (!done) act();
    done = true;
  };
}

logs.install(boot);

// An exception that nobody caught leaves the process in no known state: the call it came from is answered, if that is known, and the process
// ends. Whoever listens for it himself has decided otherwise.
function uncaught(error, kind) {
  if (process.listenerCount('uncaughtException') > 1) return;
  const call = logs.current();
  logs.say(2, `${kind}: ${logs.describe(error)}\n`);
  if (call && call.fail) call.fail(error);
  state.exit(1);
}
process.on('uncaughtException', (error, origin) => {
  uncaught(error, origin === 'unhandledRejection' ? 'Unhandled rejection' : 'Uncaught exception');
});
process.on('SIGTERM', () => state.drain());

state.server = net.createServer((socket) => new Connection(state, socket));
state.server.on('error', (error) => {
  logs.say(3, `the invocation socket failed: ${error.message}\n`);
  process.reallyExit(1);
});
// `listen` loads the cluster module first, with child_process and dgram: 3 ms of a cold start. What it then calls is used directly where it is
// there (a name that Node has kept for compatibility since version 0.8).
if (typeof state.server._listen2 === 'function') state.server._listen2(null, null, null, 511, 3);
else state.server.listen({ fd: 3 });
