'use strict';
// What the function prints, with the request it was printed for.
//
// `process.stdout` and `process.stderr` (and so `console`) become streams that write records to descriptor 4. The call is known from the async
// context; where only one call may run at a time, it is simply that one, and the raw descriptors are marked in addition, for child processes.
// Records are written at once, and not gathered: the line before an endless loop is the one that is looked for.

const fs = require('fs');

const NEWLINE = 10;
/** Longest record; the shim takes no longer one. */
const MAX_RECORD = 128 * 1024;
/** Most bytes of a stack that travel. */
const MAX_STACK = 16 * 1024;
/** Longest line that is held back for its end. */
const MAX_PARTIAL = 16 * 1024;

let storage = null; // AsyncLocalStorage, where several calls may run
let single = null; // the call that runs, where only one may
let serial = false;
let nonce = '';
let rehearsing = false; // calls are the bootstrap's own
const outside = { id: '', partial: ['', '', ''] };

/** The call that this code runs for, if that is known. */
function current() {
  return serial ? single : storage === null ? null : storage.getStore() || null;
}

/** Calls are the bootstrap's own from here on (or no longer): nothing is to be seen of them. */
function rehearse(on) {
  rehearsing = on;
  single = null;
  // Following the async context costs every promise something: not where only one call may run.
  if (!on && storage !== null) storage.disable();
}

/** How many calls may run from now on; to be called before the first. */
function configure(concurrency) {
  serial = concurrency <= 1;
  // Of a pooled instance the shim did not know it: what is printed outside of calls is nobody's, and not one's of several.
  if (serial) mark('E');
  if (!serial && storage === null) {
    storage = new (require('async_hooks').AsyncLocalStorage)();
  }
}

/** Runs `work(argument)` as a part of `call`. */
function run(call, work, argument) {
  if (serial) {
    begin(call);
    return work(argument);
  }
  return storage.run(call, work, argument);
}

/** Runs `work` as a part of a `call` that has begun. */
function within(call, work) {
  return serial ? work() : storage.run(call, work);
}

/** `call` runs from here on, where only one may. */
function begin(call) {
  single = call;
  mark('B' + call.id);
}

/** `call` has ended: what it printed without a newline is written. */
function end(call) {
  const partial = call.partial;
  if (partial !== undefined) {
    for (const stream of [1, 2]) {
      if (partial[stream] !== '') record(stream, call, partial[stream]);
    }
    call.partial = undefined;
  }
  if (serial && single === call) {
    single = null;
    mark('E');
  }
}

// In the pipes themselves, so that the order to what child processes print is exact.
function mark(what) {
  // A rehearsal goes the whole way too, with nothing to write.
  const text = rehearsing ? '' : `\n\x01H${nonce}${what}\n`;
  try {
    fs.writeSync(1, text);
    fs.writeSync(2, text);
  } catch {
    // The user's code has closed them.
  }
}

function record(stream, call, text) {
  const id = call === null ? '' : call.id;
  // Where several may run and none is known, it is one of them (or none).
  const flags = call === null && !serial && storage !== null ? 1 : 0;
  const room = MAX_RECORD - 3 - id.length;
  const length = Buffer.byteLength(text);
  const bytes = Buffer.allocUnsafe(7 + id.length + Math.min(length, room));
  let body;
  if (length <= room) {
    bytes.utf8Write(text, 7 + id.length);
    write(stream, flags, id, bytes);
    return;
  }
  // Too long for one: in pieces at line ends, where there are any.
  body = Buffer.from(text);
  while (body.length > 0) {
    let cut = body.length;
    if (cut > room) {
      cut = body.lastIndexOf(NEWLINE, room - 1) + 1;
      if (cut === 0) cut = room;
    }
    const piece = Buffer.allocUnsafe(7 + id.length + cut);
    body.copy(piece, 7 + id.length, 0, cut);
    write(stream, flags, id, piece);
    body = body.subarray(cut);
  }
}

function write(stream, flags, id, bytes) {
  bytes.writeUInt32BE(bytes.length - 4, 0);
  bytes[4] = stream;
  bytes[5] = flags;
  bytes[6] = id.length;
  bytes.latin1Write(id, 7);
  let offset = 0;
  try {
    while (offset < bytes.length) offset += fs.writeSync(4, bytes, offset);
  } catch {
    // The shim is gone, and nobody reads any more.
  }
}

/** Takes what was printed: whole lines go out, the rest waits for its end. */
function say(stream, text) {
  const call = current();
  const holder = call === null ? outside : call;
  const partial = holder.partial || (holder.partial = ['', '', '']);
  const cut = text.lastIndexOf('\n') + 1;
  if (cut === text.length && partial[stream] === '') {
    if (cut > 0) record(stream, call, text);
    return;
  }
  if (cut > 0) {
    record(stream, call, partial[stream] + text.slice(0, cut));
    partial[stream] = text.slice(cut);
  } else {
    partial[stream] += text;
  }
  if (partial[stream].length > MAX_PARTIAL) {
    record(stream, call, partial[stream]);
    partial[stream] = '';
  }
}

/** Writes what was printed outside of calls without a newline. */
function flush() {
  for (const stream of [1, 2]) {
    if (outside.partial[stream] !== '') record(stream, null, outside.partial[stream]);
    outside.partial[stream] = '';
  }
}

/** An error as a person wants to read it. */
function describe(error) {
  if (error instanceof Error) return error.stack || `${error.name}: ${error.message}`;
  try {
    return require('util').inspect(error);
  } catch {
    return String(error);
  }
}

/** As much of a stack as travels. */
function cut(stack) {
  return stack.slice(0, MAX_STACK);
}

/** What was thrown, as an `error` frame says it. */
function failure(type, error) {
  if (error instanceof Error || (typeof error === 'object' && error !== null && typeof error.message === 'string')) {
    const name = error.name && error.name !== 'Error' ? error.name : (error.constructor && error.constructor.name) || 'Error';
    const own = String(type || name);
    const message = type ? `${name}: ${error.message}` : String(error.message);
    return { type: own, message: message.slice(0, MAX_STACK), stack: error.stack ? String(error.stack).slice(0, MAX_STACK) : undefined };
  }
  return { type: String(type || 'Error'), message: describe(error).slice(0, MAX_STACK) };
}

let decoders = null;

function stream(number, name) {
  const { Writable } = require('stream');
  const out = new Writable({
    decodeStrings: false,
    write(chunk, encoding, done) {
      take(chunk, encoding);
      done();
    },
  });
  function take(chunk, encoding) {
    if (typeof chunk === 'string') {
      say(number, encoding === undefined || encoding === 'utf8' || encoding === 'utf-8' || encoding === 'buffer' ? chunk : Buffer.from(chunk, encoding).toString());
      return;
    }
    // A character may be cut in two.
    const { StringDecoder } = require('string_decoder');
    decoders = decoders || [null, new StringDecoder('utf8'), new StringDecoder('utf8')];
    say(number, decoders[number].write(chunk));
  }
  const slow = out.write;
  // The usual case without the machinery of a stream: nothing is ever buffered.
  out.write = function (chunk, encoding, done) {
    if (typeof encoding === 'function') {
      done = encoding;
      encoding = undefined;
    }
    if (typeof chunk !== 'string' && !ArrayBuffer.isView(chunk)) return slow.call(out, chunk, encoding, done);
    take(chunk, encoding);
    if (typeof done === 'function') process.nextTick(done);
    return true;
  };
  out.fd = number;
  out._type = 'pipe';
  out._isStdio = true;
  out.destroySoon = out.destroy;
  out._destroy = (error, done) => done(error);
  Object.defineProperty(process, name, { configurable: true, enumerable: true, value: out });
  return out;
}

/** Puts the streams in place; they are made when they are first used. */
function install(boot) {
  nonce = boot.nonce;
  for (const [number, name] of [[1, 'stdout'], [2, 'stderr']]) {
    Object.defineProperty(process, name, {
      configurable: true,
      enumerable: true,
      get: () => stream(number, name),
    });
  }
  process.on('exit', flush);
}

module.exports = { install, rehearse, configure, run, within, end, current, say, flush, describe, failure, cut };
