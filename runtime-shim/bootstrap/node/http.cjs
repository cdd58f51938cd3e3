'use strict';
// The `http` signature: real (req, res). An attached connection is handed to a server of Node's own (or to the one that is exported), so
// that every framework, upload and upgrade works as it does anywhere.

const http = require('http');
const logs = require('./logs.cjs');

function handler(state, application, upgrade) {
  const exported = typeof application !== 'function';
  const server = exported ? application : http.createServer();
  if (!exported) {
    // What it throws or rejects with is this request's matter. (An exported server is left as it is: there it is nobody's, and Node's rule holds.)
    server.on('request', (request, response) => {
      const failed = (error) => {
        logs.say(2, `${logs.describe(error)}\n`);
        refuse(response, error);
      };
      try {
        const result = application(request, response);
        if (typeof result === 'object' && result !== null && typeof result.then === 'function') result.then(undefined, failed);
      } catch (error) {
        failed(error);
      }
    });
  }
  if (upgrade !== undefined && server.listenerCount('upgrade') === 0) server.on('upgrade', upgrade);

  // The gateway decides how long a connection lives; a timer here would close it under a request, or at the thaw of a paused instance.
  server.keepAliveTimeout = 0;
  server.headersTimeout = 0;
  server.requestTimeout = 0;
  server.timeout = 0;

  // Around everything that the application does for a request. `emit` and not a listener: the application's may be there already.
  const emit = server.emit;
  server.emit = function (event, request, response, ...rest) {
    if (event !== 'request' && event !== 'upgrade') return Reflect.apply(emit, this, [event, request, response, ...rest]);
    const call = { id: requestId(request), partial: undefined, fail: undefined };
    state.running++;
    const closed = () => {
      logs.end(call);
      state.callEnded();
    };
    response.once('close', closed);
    if (event === 'request') {
      call.fail = (error) => refuse(response, error);
      if (state.draining) response.shouldKeepAlive = false;
    }
    return logs.run(call, () => Reflect.apply(emit, server, [event, request, response, ...rest]));
  };

  return {
    signature: 'http',
    attach(socket) {
      Reflect.apply(emit, server, ['connection', socket]);
      socket.resume();
    },
    drain() {
      if (server.closeIdleConnections) server.closeIdleConnections();
    },
  };
}

/** Answers a request whose handler failed; the header tells the gateway that it is no answer of the application's. */
function refuse(response, error) {
  if (response.headersSent) {
    // Broken off, so that nobody takes it for complete.
    response.destroy();
    return;
  }
  response.writeHead(500, { 'x-hearth-error': errorName(error), connection: 'close' });
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
