'use strict';
// The `fetch` signature: a web Request in, a web Response out, bodies streaming both ways.

// What undici loads lazily is loaded now, and not by the first call.
const { Request, Response, Headers, ReadableStream } = globalThis;
void new Response(null);

const EMPTY = Buffer.alloc(0);

/** Of the connection, and not of the answer. */
const DROPPED = new Set(['connection', 'content-length', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade']);

function handler(serve, load) {
  const environment = process.env;
  const info = { function: load.function, namespace: load.namespace, revision: load.revision };

  function invoke(call) {
    run(call).catch((error) => call.fail(error === undefined || error === null ? new Error(String(error)) : error));
  }

  async function run(call) {
    const request = incoming(call);
    const context = { ...info, requestId: call.id, signal: call.signal };
    const response = await serve(request, environment, context);
    if (response === null || typeof response !== 'object' || typeof response.status !== 'number' || !(response.headers instanceof Headers)) {
      throw Object.assign(new Error('the handler returned no Response'), { name: 'AnswerInvalid' });
    }
    await outgoing(call, response);
  }

  return { signature: 'fetch', invoke };
}

function incoming(call) {
  const head = JSON.parse(call.head);
  // What is no path (`*`, an absolute form) is resolved as a client would.
  const url = new URL(head.target, `${head.scheme}://${head.authority}`);
  const headers = new Headers();
  for (const [name, value] of head.headers) headers.append(name, value);
  const init = { method: head.method, headers, signal: call.signal };
  const { method } = head;
  if (method !== 'GET' && method !== 'HEAD' && !(call.ended && call.first === null)) {
    if (call.ended) {
      init.body = call.first;
    } else {
      init.body = bodyOf(call);
      init.duplex = 'half';
    }
  }
  call.first = null;
  return new Request(url, init);
}

function bodyOf(call) {
  const first = call.first;
  let waiting = 0; // bytes that were put in and not yet taken
  return new ReadableStream(
    {
      start(controller) {
        if (first !== null) {
          waiting += first.length;
          controller.enqueue(new Uint8Array(first));
        }
        call.onBody = (bytes, end) => {
          if (bytes.length > 0) {
            waiting += bytes.length;
            controller.enqueue(new Uint8Array(bytes));
          }
          if (end) {
            call.onBody = null;
            if (call.cancelled) controller.error(new DOMException('the client went away', 'AbortError'));
            else controller.close();
          }
        };
      },
      // Called when less than the high-water mark is waiting: what was taken since may come again.
      pull() {
        const taken = waiting;
        waiting = 0;
        call.consumed(taken);
      },
      cancel() {
        // Not wanted any more: it is thrown away as it comes.
        call.onBody = (bytes) => call.consumed(bytes.length);
        call.consumed(waiting);
      },
    },
    { highWaterMark: 1, size: () => 1 },
  );
}

async function outgoing(call, response) {
  let lines = '';
  for (const [name, value] of response.headers) {
    if (!DROPPED.has(name)) lines += `${name}: ${value}\n`;
  }
  const { status } = response;
  if (status < 200 || status > 599) throw Object.assign(new Error(`status ${status} is no final HTTP status`), { name: 'AnswerInvalid' });
  if (response.body === null) {
    await call.respond(status, lines, EMPTY);
    return;
  }
  const reader = response.body.getReader();
  const cancelled = () => reader.cancel().catch(() => {});
  if (call.cancelled) cancelled();
  else call.signal.addEventListener('abort', cancelled, { once: true });
  const first = await reader.read();
  if (first.done) {
    await call.respond(status, lines, EMPTY);
    return;
  }
  // A short answer is one piece, and one frame; whether another follows is known within this turn, if the body is at hand.
  let next = reader.read();
  const soon = await Promise.race([next, turn()]);
  if (soon !== LATER && soon.done) {
    await call.respond(status, lines, first.value);
    return;
  }
  call.begin(status, lines);
  let piece = first;
  while (!piece.done) {
    if (!(await call.write(bytesOf(piece.value)))) {
      cancelled();
      break;
    }
    piece = await next;
    if (!piece.done) next = reader.read();
  }
  call.finish();
}

const LATER = { done: false };

async function turn() {
  // Enough microtasks for a body that is at hand to say that it has ended.
  for (let index = 0; index < 8; index++) await null;
  return LATER;
}

function bytesOf(value) {
  if (value instanceof Uint8Array) return value;
  throw new TypeError('a response body is made of bytes');
}

module.exports = { handler };
