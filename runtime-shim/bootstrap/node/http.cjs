'use strict';
// The `http` signature: real (req, res). An attached connection is handed to a server of Node's own (or to the one that is exported), so
// that every framework, upload and upgrade works as it does anywhere.
//
// A call whose caller does not wait any more (it has shut down its side of the connection) may run on. The application is told as Node tells
// it, but the descriptor is closed only when the call has ended, which is how the caller learns of that: see `Call.over`.

const http = require('http');
const logs = require('./logs.cjs');

function handler(state, application, upgrade) {
  const exported = typeof application !== 'function';
  const server = exported ? application : http.createServer();
  if (!exported) {
    // What it throws or rejects with is this request's matter. (An exported server is left as it is: there it is nobody's, and Node's rule holds.)
    server.on('request', (request, response) => {
      const call = response[CALL];
      const failed = (error) => {
        logs.say(2, `${logs.describe(error)}\n`);
        refuse(response, error);
      };
      try {
        const result = application(request, response);
        if (typeof result !== 'object' || result === null || typeof result.then !== 'function') return;
        call.pending = true;
        result.then(() => call.settled(), (error) => {
          failed(error);
          call.settled();
        });
      } catch (error) {
        failed(error);
        call.settled();
      }
    });
  }
  if (upgrade !== undefined && server.listenerCount('upgrade') === 0) server.on('upgrade', upgrade);

  // The gateway decides how long a connection lives; a timer here would close it under a request, or at the thaw of a paused instance.
  server.keepAliveTimeout = 0;
  server.headersTimeout = 0;
  server.requestTimeout = 0;
  server.timeout = 0;

  // Requests that came by kept connections and are more than may run: a gateway that has lost its slots to others does not know. They cannot
  // be refused (their bodies come already), so each begins when a call has ended.
  const waiting = new Set();
  const next = () => {
    const [begin] = waiting;
    if (begin !== undefined && state.running < state.concurrency) begin();
  };

  // Around everything that the application does for a request. `emit` and not a listener: the application's may be there already.
  const emit = server.emit;
  const begin = (event, request, response, rest) => {
    const call = new Call(state, requestId(request), next);
    state.running++;
    if (event === 'request') {
      call.serves(request, response);
      if (state.draining) response.shouldKeepAlive = false;
    } else {
      // An upgraded connection is the call.
      response.once('close', () => call.end());
    }
    return logs.run(call, () => Reflect.apply(emit, server, [event, request, response, ...rest]));
  };
  const wait = (event, request, response, rest) => {
    const forget = () => waiting.delete(start);
    const start = () => {
      forget();
      response.removeListener('close', forget);
      response.removeListener('error', ignore);
      begin(event, request, response, rest);
    };
    // Who is given up before it has begun does not run.
    response.once('close', forget);
    response.on('error', ignore);
    waiting.add(start);
    return true;
  };
  server.emit = function (event, request, response, ...rest) {
    // One that runs may be handed on.
    const isCall = event === 'upgrade' || (event === 'request' && response[CALL] === undefined);
    if (!isCall) return Reflect.apply(emit, this, [event, request, response, ...rest]);
    const { socket } = request;
    if (socket && socket[ARRIVED] !== undefined) socket[ARRIVED]();
    return (state.running < state.concurrency ? begin : wait)(event, request, response, rest);
  };

  return {
    signature: 'http',
    /** Whether as many calls run, or are about to, as may. */
    full() {
      return state.running + state.expected + waiting.size >= state.concurrency;
    },
    attach(socket) {
      holdOpen(socket);
      // Whoever attaches has a request: an end that came in between would lose it.
      socket[ARRIVED] = state.expect();
      socket.once('close', socket[ARRIVED]);
      Reflect.apply(emit, server, ['connection', socket]);
      socket.resume();
    },
    drain() {
      if (server.closeIdleConnections) server.closeIdleConnections();
    },
  };
}

const ARRIVED = Symbol('hearth.arrived'); // of a socket: says that its first request has come
const CALL = Symbol('hearth.call'); // of a socket: the last one on it
const LEFT = Symbol('hearth.left'); // of a socket: its other side has ended

/** One request. What logs.cjs and bootstrap.cjs want to know of a call is among its fields. */
class Call {
  constructor(state, id, next) {
    this.state = state;
    this.id = id;
    this.next = next; // there may be room for another
    this.partial = undefined;
    this.fail = undefined;
    this.response = null;
    this.socket = null;
    this.pending = false; // the application's promise
    this.listening = 0; // for the end of the request or response, before the application was called
    this.told = false; // it knows that nobody waits
    this.ended = false;
    this.release = null; // closes the descriptor
  }

  serves(request, response) {
    this.response = response;
    this.fail = (error) => refuse(response, error);
    response[CALL] = this;
    this.socket = response.socket;
    if (this.socket) this.socket[CALL] = this;
    response.once('close', () => this.closed(request));
    this.listening = listeners(request, response);
  }

  /** The answer is complete, or broken off by the application, or nobody waits for it. */
  closed(request) {
    const { response } = this;
    if (response.writableFinished || !this.socket || !this.socket[LEFT]) return this.end();
    // Who has begun to answer finds that he cannot write; who listens for the end is just told. Anybody else may be at work still.
    this.told = response.headersSent || listeners(request, response) > this.listening - 1;
    for (const name of ['end', 'destroy']) {
      const own = response[name];
      response[name] = (...values) => {
        const result = Reflect.apply(own, response, values);
        this.told = true;
        this.look();
        return result;
      };
    }
    return this.look();
  }

  settled() {
    this.pending = false;
    // Whoever has settled without an answer gives none; as long as somebody waits, that is for the caller to decide.
    this.told = true;
    if (this.response.destroyed) this.look();
  }

  /** Whether the handler has ended, as far as anybody can know: its promise has settled, or, where it gave none, it ended the response or knows
   * that nobody waits for it. */
  over() {
    return this.ended || (!this.pending && (this.told || this.response.writableEnded));
  }

  look() {
    if (this.over()) this.end();
  }

  end() {
    if (this.ended) return;
    this.ended = true;
    logs.end(this);
    this.state.callEnded();
    if (this.release !== null) this.release();
    this.next();
  }
}

function ignore() {}

function listeners(request, response) {
  return response.listenerCount('close') + request.listenerCount('close') + request.listenerCount('aborted');
}

/** Keeps the descriptor of a connection that its server has ended or destroyed until the call on it is over. A socket has no public way to that;
 * without these names (they are as old as Node) it is closed at once. */
function holdOpen(socket) {
  socket.once('end', () => {
    socket[LEFT] = true;
  });
  const handle = socket._handle;
  if (!handle || typeof handle.close !== 'function' || typeof handle.shutdown !== 'function') return;
  const running = () => {
    const call = socket[CALL];
    return call !== undefined && socket[LEFT] && !call.over() ? call : null;
  };
  const { close, shutdown } = handle;
  // 1 is what a shutdown says that has nothing to wait for.
  handle.shutdown = (request) => (running() === null ? Reflect.apply(shutdown, handle, [request]) : 1);
  handle.close = (done) => {
    const call = running();
    if (call === null) return Reflect.apply(close, handle, [done]);
    call.release = () => Reflect.apply(close, handle, []);
    if (handle.readStop) handle.readStop();
    if (done) setImmediate(() => Reflect.apply(done, handle, []));
    return undefined;
  };
}

/** Answers a request whose handler failed; the header tells the gateway that it is no answer of the application's. */
function refuse(response, error) {
  if (response.headersSent) {
    // Broken off, so that nobody takes it for complete.
    response.destroy();
    return;
  }
  response.writeHead(500, { 'x-hearth-error': errorName(error), 'content-length': 0, connection: 'close' });
  response.end();
}

/** The gateway's own header; nobody else's value is taken for an id. */
function requestId(request) {
  const id = request.headers['x-hearth-request-id'];
  return typeof id === 'string' && /^[\x21-\x7e]{1,255}$/.test(id) ? id : '';
}

function errorName(error) {
  const name = error && error.name ? String(error.name) : 'Error';
  return name.replace(/[^\x20-\x7e]/g, '?').slice(0, 100);
}

module.exports = { handler };
