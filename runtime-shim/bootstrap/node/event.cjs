'use strict';
// The `event` signature: (event, context), with the event and the answer rules of Function URL payload 2.0.
//
// The answer is what the handler returns (or resolves to), or what it gives to a callback (third parameter, or `context.done`, `succeed`,
// `fail`). Something that is an object with a `statusCode` is taken for `{statusCode, headers, cookies, body, isBase64Encoded}`; anything else is
// the body itself, as JSON, with status 200. A thrown error, a rejection or a callback's error is an error of the call.

const { object } = require('./connection.cjs');
const logs = require('./logs.cjs');

const JSON_TYPE = 'content-type: application/json\n';

/** Of the connection, and not of the answer: dropped, as a Function URL drops what it has to say itself. */
const DROPPED = new Set(['connection', 'content-length', 'date', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade']);

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
// eslint-disable-next-line no-control-regex
const NOT_A_VALUE = /[^\t\x20-\x7e\x80-\xff]/;

class AnswerInvalid extends Error {
  constructor(message) {
    super(message);
    this.name = 'AnswerInvalid';
  }
}

/** What a handler is told beside the event; the names are Lambda's. */
class Context {
  #call;
  #until;
  #give;

  constructor(call, request, give) {
    this.#call = call;
    this.#give = give;
    const time = call.deadline || request.execute;
    this.#until = time > 0 ? performance.now() + time : Infinity;
    /** Kept for handlers that set it. A call ends with its answer, whatever else is going on in the process. */
    this.callbackWaitsForEmptyEventLoop = true;
    this.functionName = request.function;
    this.functionVersion = request.revision;
    this.memoryLimitInMB = request.memory;
    this.awsRequestId = call.id;
    this.invokedFunctionArn = request.arn;
    this.logGroupName = request.group;
    this.logStreamName = request.instance;
  }

  /** Aborted when nobody waits for the answer any more. */
  get signal() {
    return this.#call.signal;
  }

  getRemainingTimeInMillis() {
    const left = this.#until - performance.now();
    return left === Infinity ? 2147483647 : Math.max(0, Math.floor(left));
  }

  done(error, result) {
    this.#give(error, result);
  }

  succeed(result) {
    this.#give(null, result);
  }

  fail(error) {
    this.#give(error === undefined || error === null ? new Error('context.fail') : error);
  }
}

/** The event that is the head of a call; null when it is none, and the call has failed then. */
function eventOf(call) {
  const event = object(call.head);
  if (event === null) call.fail(new Error('the head of the call is no event'), 'ProtocolViolation');
  return event;
}

function handler(work, arity, load) {
  const request = {
    function: load.function,
    revision: load.revision,
    memory: String(Math.round(load.memoryBytes / 1048576)),
    execute: load.executeTimeoutMs || 0,
    arn: `arn:hearth:functions:${load.namespace}:${load.function}`,
    group: `/hearth/${load.namespace}/${load.function}`,
    instance: process.env.HEARTH_INSTANCE || '',
  };
  const callback = arity >= 3;

  function invoke(call) {
    if (!call.ended || call.first !== null) return gather(call);
    const event = eventOf(call);
    if (event !== null) start(call, event);
    return undefined;
  }

  function start(call, event) {
    let over = false;
    const give = (error, result) => {
      if (over) return;
      over = true;
      if (error !== undefined && error !== null) call.fail(error);
      else answer(call, result);
    };
    let result;
    try {
      const context = new Context(call, request, give);
      result = callback ? work(event, context, give) : work(event, context);
    } catch (error) {
      give(error === undefined || error === null ? new Error(String(error)) : error);
      return;
    }
    if (typeof result === 'object' && result !== null && typeof result.then === 'function') {
      result.then(
        // An async handler that uses the callback returns nothing.
        (value) => (callback && value === undefined ? undefined : give(null, value)),
        (error) => give(error === undefined || error === null ? new Error(String(error)) : error),
      );
    } else if (!callback) {
      give(null, result);
    }
  }

  /** The body did not fit beside the event: it comes in pieces, and goes into it as a whole. */
  function gather(call) {
    const pieces = call.first === null ? [] : [call.first];
    const done = () => {
      if (call.cancelled) {
        call.finish();
        return;
      }
      const event = eventOf(call);
      if (event === null) return;
      const body = pieces.length === 1 ? pieces[0] : Buffer.concat(pieces);
      event.body = body.toString(event.isBase64Encoded ? 'base64' : 'utf8');
      start(call, event);
    };
    call.consumed(call.first === null ? 0 : call.first.length);
    call.first = null;
    if (call.ended) {
      done();
      return;
    }
    call.onBody = (bytes, end) => {
      if (bytes.length > 0) pieces.push(bytes);
      if (end) {
        call.onBody = null;
        logs.within(call, done);
      } else {
        call.consumed(bytes.length);
      }
    };
  }

  return { signature: 'event', invoke };
}

function answer(call, result) {
  try {
    if (typeof result !== 'object' || result === null || result.statusCode === undefined) {
      const body = JSON.stringify(result);
      call.respond(200, JSON_TYPE, body === undefined ? 'null' : body);
      return;
    }
    const status = Number(result.statusCode);
    if (!Number.isInteger(status) || status < 200 || status > 599) {
      throw new AnswerInvalid(`statusCode ${result.statusCode} is no final HTTP status`);
    }
    let lines = '';
    let typed = false;
    const { headers, cookies } = result;
    if (headers !== undefined && headers !== null) {
      for (const name of Object.keys(headers)) {
        const value = headers[name];
        if (value === undefined || value === null) continue;
        const lower = name.toLowerCase();
        if (DROPPED.has(lower)) continue;
        if (lower === 'content-type') typed = true;
        if (Array.isArray(value)) for (const one of value) lines += line(lower, one);
        else lines += line(lower, value);
      }
    }
    if (Array.isArray(cookies)) for (const cookie of cookies) lines += line('set-cookie', cookie);
    let { body } = result;
    if (body === undefined || body === null) body = '';
    else if (result.isBase64Encoded) body = Buffer.from(String(body), 'base64');
    else if (typeof body !== 'string' && !ArrayBuffer.isView(body)) body = JSON.stringify(body);
    if (!typed) lines += JSON_TYPE;
    call.respond(status, lines, body);
  } catch (error) {
    call.fail(error);
  }
}

function line(name, value) {
  const text = typeof value === 'string' ? value : String(value);
  if (!TOKEN.test(name)) throw new AnswerInvalid(`"${name}" is no header's name`);
  if (NOT_A_VALUE.test(text)) throw new AnswerInvalid(`the value of header ${name} has a character that HTTP does not allow`);
  return `${name}: ${text}\n`;
}

module.exports = { handler };
