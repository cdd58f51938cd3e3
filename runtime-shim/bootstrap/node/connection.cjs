'use strict';
// One connection of the invocation protocol, from the instance's side: frames in, frames out, and the calls between.
//
// Written for many small calls: one read is parsed in one go, and everything that is answered before the event loop turns goes out in one
// write.

const logs = require('./logs.cjs');

const HELLO = 1, WELCOME = 2, LOAD = 3, LOADED = 4, INVOKE = 5, ACCEPT = 6, DATA = 7, CREDIT = 8, ANSWER = 9,
  ERROR = 11, CANCEL = 12, END = 13, PING = 15, PONG = 16, BUSY = 17, DRAIN = 18, ATTACH = 19;
const FLAG_END = 1, FLAG_ACCEPT = 2;
const HEADER = 10;
const MAX_PAYLOAD = 1 << 20;
const INITIAL_CREDIT = 64 * 1024;
/** Bytes of the buffer that answers are gathered in. */
const OUT_BYTES = 64 * 1024;
/** Longest piece of an answer in one frame. */
const MAX_PIECE = 256 * 1024;

class Connection {
  constructor(state, socket) {
    this.state = state;
    this.socket = socket;
    this.pending = null; // pieces of a frame that is not complete
    this.have = 0;
    this.need = 0;
    this.out = null;
    this.used = 0;
    this.flushing = false;
    this.greeted = false;
    this.last = 0;
    this.calls = new Map();
    this.onData = (chunk) => this.take(chunk);
    this.onClose = () => this.closed();
    this.doFlush = () => this.flush();
    state.connections.add(this);
    socket.on('data', this.onData);
    socket.on('close', this.onClose);
    socket.on('error', ignore);
  }

  // ---- in

  take(chunk) {
    if (this.pending !== null) {
      this.pending.push(chunk);
      this.have += chunk.length;
      if (this.have < this.need) return;
      chunk = Buffer.concat(this.pending, this.have);
      this.pending = null;
    }
    let at = 0;
    const length = chunk.length;
    while (length - at >= HEADER) {
      const size = (chunk[at] << 24 | chunk[at + 1] << 16 | chunk[at + 2] << 8 | chunk[at + 3]) >>> 0;
      if (size > MAX_PAYLOAD) return this.violation('a frame that is too long');
      const end = at + HEADER + size;
      if (end > length) {
        this.wait(chunk, at, end - at);
        return;
      }
      const stream = (chunk[at + 6] << 24 | chunk[at + 7] << 16 | chunk[at + 8] << 8 | chunk[at + 9]) >>> 0;
      if (!this.frame(chunk[at + 4], chunk[at + 5], stream, chunk, at + HEADER, end)) return;
      at = end;
    }
    if (at < length) this.wait(chunk, at, HEADER);
  }

  wait(chunk, at, need) {
    this.pending = [at === 0 ? chunk : chunk.subarray(at)];
    this.have = chunk.length - at;
    this.need = need;
  }

  /** Takes one frame; false when no more is to be read here. */
  frame(kind, flags, stream, bytes, at, end) {
    if (!this.greeted) return this.greet(kind, bytes, at, end);
    switch (kind) {
      case INVOKE:
        return this.invoke(flags, stream, bytes, at, end);
      case DATA:
      case CREDIT:
      case CANCEL: {
        if (kind === CREDIT && end - at !== 4) return this.violation('malformed credit');
        const call = this.calls.get(stream);
        if (call === undefined) return stream <= this.last || this.violation('a call that does not exist');
        if (kind === DATA) call.body(bytes.subarray(at, end), (flags & FLAG_END) !== 0);
        else if (kind === CREDIT) call.credit(bytes.readUInt32BE(at));
        else call.cancel();
        return true;
      }
      case PING:
        if (end - at !== 8) return this.violation('malformed ping');
        this.pinged(Buffer.from(bytes.subarray(at, end)));
        return true;
      case LOAD:
        return this.load(bytes.utf8Slice(at, end));
      case DRAIN:
        this.state.drain();
        return true;
      default:
        return this.violation(`frame kind ${kind} is not legal here`);
    }
  }

  greet(kind, bytes, at, end) {
    if (kind !== HELLO && kind !== ATTACH) return this.violation('the first frame is hello or attach');
    const hello = object(bytes.utf8Slice(at, end));
    if (hello === null) return this.violation('malformed hello');
    const { boot, handler, served } = this.state;
    if (!same(String(hello.secret), boot.secret)) return this.refuse('SecretRefused', "the secret is not this instance's");
    if (!(hello.minVersion <= 1 && hello.maxVersion >= 1)) return this.refuse('VersionRefused', 'this instance speaks version 1');
    if (kind === ATTACH) return this.attach(bytes.subarray(end));
    if (hello.role !== 'invoke') return this.violation(`role ${hello.role} is not served here`);
    this.greeted = true;
    const welcome = { version: 1, instance: boot.instance, served };
    if (handler !== null) welcome.signature = handler.signature;
    this.json(WELCOME, 0, welcome);
    this.tellEnding();
    return true;
  }

  /** Tells that the instance is to end, if it is: another may be needed while it runs its last calls. */
  tellEnding() {
    if (this.greeted && this.state.draining) this.plain(DRAIN, 0);
  }

  /** The connection becomes plain HTTP; `early` is what came behind the frame. */
  attach(early) {
    const { handler, draining } = this.state;
    if (draining) return this.refuse('Ending', 'the instance is to end and takes no new calls');
    if (handler === null) return this.refuse('NotLoaded', 'nothing is loaded yet');
    if (handler.attach === undefined) return this.refuse('NotServed', `the ${handler.signature} signature is not served over attached connections`);
    // Callers know how many they may send; this is the net below.
    if (handler.full()) return this.refuse('Ending', 'as many calls run as may');
    const { socket } = this;
    this.plain(ACCEPT, 0);
    this.flush();
    socket.removeListener('data', this.onData);
    socket.removeListener('close', this.onClose);
    socket.removeListener('error', ignore);
    this.state.connections.delete(this);
    socket.pause();
    if (early.length > 0) socket.unshift(early);
    handler.attach(socket);
    return false;
  }

  pinged(payload) {
    const { exercise } = this.state;
    this.state.exercise = undefined;
    if (exercise === undefined) this.payload(PONG, 0, payload);
    // Before a load: the instance is to be pooled, and does now what its load and its first call would have to wait for.
    else (this.state.exercising = exercise()).then(() => this.payload(PONG, 0, payload));
  }

  load(text) {
    const { state } = this;
    if (state.handler !== null || state.loading) {
      this.json(LOADED, 0, { result: 'error', type: 'AlreadyLoaded', message: 'code was loaded before' });
      return true;
    }
    const load = object(text);
    if (load === null) return this.violation('malformed load');
    state.loading = true;
    state.exercise = undefined;
    const begin = () => require('./load.cjs').load(state, load);
    (state.exercising === undefined ? begin() : state.exercising.then(begin)).then(
      (handler) => {
        state.handler = handler;
        this.json(LOADED, 0, { result: 'ok', signature: handler.signature });
      },
      (error) => {
        const { type, message, stack } = error && error.hearth ? error.hearth : logs.failure('LoadFailed', error);
        this.json(LOADED, 0, { result: 'error', type, message, stack });
      },
    );
    return true;
  }

  invoke(flags, stream, bytes, at, end) {
    if (stream !== this.last + 1) return this.violation(`call ${stream} where ${this.last + 1} was next`);
    this.last = stream;
    const { state } = this;
    const handler = state.handler;
    if (handler === null) {
      this.json(ERROR, stream, { type: 'NotLoaded', message: 'nothing is loaded yet' });
      return true;
    }
    // Callers know how many they may send; this is the net below.
    if (state.draining || state.running >= state.concurrency) {
      this.plain(BUSY, stream);
      return true;
    }
    if (handler.invoke === undefined) {
      this.json(ERROR, stream, { type: 'NotServed', message: `calls of the ${handler.signature} signature come over attached connections` });
      return true;
    }
    if (end - at < 9) return this.violation('malformed invoke');
    const idEnd = at + 5 + bytes[at + 4];
    const headStart = idEnd + 4;
    if (headStart > end) return this.violation('malformed invoke');
    const headEnd = headStart + bytes.readUInt32BE(idEnd);
    if (headEnd > end) return this.violation('malformed invoke');
    const call = new Call(
      this,
      stream,
      bytes.latin1Slice(at + 5, idEnd),
      bytes.readUInt32BE(at),
      bytes.utf8Slice(headStart, headEnd),
      (flags & FLAG_END) !== 0,
      headEnd < end ? bytes.subarray(headEnd, end) : null,
    );
    this.calls.set(stream, call);
    state.running++;
    if ((flags & FLAG_ACCEPT) !== 0) this.plain(ACCEPT, stream);
    logs.run(call, handler.invoke, call);
    return true;
  }

  closed() {
    this.state.connections.delete(this);
    // Nobody waits for these any more; each still ends in its own time.
    for (const call of this.calls.values()) call.cancel();
  }

  violation(why) {
    return this.refuse('ProtocolViolation', why);
  }

  refuse(type, message) {
    this.json(ERROR, 0, { type, message });
    this.flush();
    this.socket.removeListener('data', this.onData);
    this.socket.on('data', ignore);
    this.socket.end();
    return false;
  }

  // ---- out

  /** Makes room for `size` bytes in the buffer; returns where. */
  room(size) {
    if (this.out === null) {
      this.out = Buffer.allocUnsafeSlow(Math.max(size, OUT_BYTES));
      this.used = 0;
    } else if (this.out.length - this.used < size) {
      this.flush();
      if (this.out === null || this.out.length < size) this.out = Buffer.allocUnsafeSlow(Math.max(size, OUT_BYTES));
      this.used = 0;
    }
    if (!this.flushing) {
      this.flushing = true;
      process.nextTick(this.doFlush);
    }
    const at = this.used;
    this.used += size;
    return at;
  }

  /** Writes what has gathered. */
  flush() {
    this.flushing = false;
    if (this.out === null || this.used === 0) return;
    const { socket, out, used } = this;
    this.used = 0;
    if (!socket.writable) return;
    // What the kernel has taken at once is free again; what it has not still belongs to the socket.
    socket.write(used === out.length ? out : out.subarray(0, used));
    if (socket.writableLength > 0) this.out = null;
  }

  plain(kind, stream) {
    const at = this.room(HEADER);
    header(this.out, at, 0, kind, 0, stream);
  }

  json(kind, stream, body) {
    this.payload(kind, stream, Buffer.from(JSON.stringify(body)));
  }

  payload(kind, stream, bytes) {
    const at = this.room(HEADER + bytes.length);
    header(this.out, at, bytes.length, kind, 0, stream);
    bytes.copy(this.out, at + HEADER);
  }

  giveCredit(stream, bytes) {
    const at = this.room(HEADER + 4);
    header(this.out, at, 4, CREDIT, 0, stream);
    this.out.writeUInt32BE(bytes, at + HEADER);
  }

  /** `lines` are header lines, ASCII or Latin-1; `body` is a string (UTF-8) or bytes. */
  answer(stream, status, lines, body, end) {
    if (typeof body === 'string' && body.length < 8192) {
      // The longest it can be as UTF-8; what is not needed is given back.
      const most = HEADER + 6 + lines.length + body.length * 3;
      const at = this.room(most);
      const { out } = this;
      const start = at + HEADER + 6;
      out.latin1Write(lines, start);
      const written = body.length === 0 ? 0 : out.utf8Write(body, start + lines.length);
      const size = 6 + lines.length + written;
      header(out, at, size, ANSWER, end ? FLAG_END : 0, stream);
      out.writeUInt16BE(status, at + HEADER);
      out.writeUInt32BE(lines.length, at + HEADER + 2);
      this.used = at + HEADER + size;
      return;
    }
    const bytes = typeof body === 'string' ? Buffer.from(body) : body;
    const size = 6 + lines.length + bytes.length;
    const at = this.room(HEADER + size);
    const { out } = this;
    header(out, at, size, ANSWER, end ? FLAG_END : 0, stream);
    out.writeUInt16BE(status, at + HEADER);
    out.writeUInt32BE(lines.length, at + HEADER + 2);
    out.latin1Write(lines, at + HEADER + 6);
    out.set(bytes, at + HEADER + 6 + lines.length);
  }

  data(stream, bytes, end) {
    const at = this.room(HEADER + bytes.length);
    header(this.out, at, bytes.length, DATA, end ? FLAG_END : 0, stream);
    this.out.set(bytes, at + HEADER);
  }
}

/** One call. The handler's part of the bootstrap (event.cjs, fetch.cjs) answers it. */
class Call {
  constructor(connection, stream, id, deadline, head, ended, first) {
    this.connection = connection;
    this.stream = stream;
    this.id = id;
    this.deadline = deadline;
    this.head = head;
    this.ended = ended; // the body is complete
    this.first = first; // bytes that came with the head
    this.onBody = null; // takes (bytes, end) of the rest of the body
    this.window = INITIAL_CREDIT; // answer bytes that may be sent
    this.onWindow = null; // waits for more
    this.answered = false; // the head of the answer is out
    this.over = false;
    this.cancelled = false;
    this.controller = null; // AbortController, once asked for
    this.partial = undefined; // what it printed without a newline (logs.cjs)
  }

  /** Aborted when nobody waits for the call any more. */
  get signal() {
    if (this.controller === null) {
      this.controller = new AbortController();
      if (this.cancelled) this.controller.abort();
    }
    return this.controller.signal;
  }

  body(bytes, end) {
    this.ended = this.ended || end;
    if (this.onBody !== null) this.onBody(bytes, end);
    else if (!this.over && bytes.length > 0) this.first = this.first === null ? bytes : Buffer.concat([this.first, bytes]);
  }

  /** So many bytes of the body were used: the caller may send as many more. */
  consumed(bytes) {
    if (!this.over && !this.ended && !this.cancelled && bytes > 0) this.connection.giveCredit(this.stream, bytes);
  }

  credit(bytes) {
    this.window += bytes;
    const { onWindow } = this;
    if (onWindow !== null) {
      this.onWindow = null;
      onWindow();
    }
  }

  cancel() {
    if (this.cancelled || this.over) return;
    this.cancelled = true;
    // What listens is the handler's.
    logs.within(this, () => this.aborted());
  }

  aborted() {
    if (this.controller !== null) this.controller.abort();
    if (this.onBody !== null) this.onBody(EMPTY, true);
    const { onWindow } = this;
    if (onWindow !== null) {
      this.onWindow = null;
      onWindow();
    }
  }

  /** The whole answer at once. */
  respond(status, lines, body) {
    if (this.over) return undefined;
    if (this.cancelled) return this.finish();
    const size = body.length;
    // A string of this many characters has at most three times as many bytes.
    if ((typeof body === 'string' ? size * 3 : size) <= this.window) {
      this.connection.answer(this.stream, status, lines, body, true);
      this.close();
      return undefined;
    }
    return this.pour(status, lines, typeof body === 'string' ? Buffer.from(body) : body);
  }

  async pour(status, lines, bytes) {
    this.begin(status, lines);
    await this.write(bytes);
    this.finish();
  }

  /** The head of an answer that streams. */
  begin(status, lines) {
    if (this.over || this.cancelled) return;
    this.answered = true;
    this.connection.answer(this.stream, status, lines, '', false);
  }

  /** A piece of it. Waits for credit; false when nobody wants it any more. */
  async write(bytes) {
    let at = 0;
    while (at < bytes.length) {
      if (this.over || this.cancelled) return false;
      if (this.window === 0) {
        await new Promise((resolve) => {
          this.onWindow = resolve;
        });
        continue;
      }
      const size = Math.min(bytes.length - at, this.window, MAX_PIECE);
      this.window -= size;
      this.connection.data(this.stream, at === 0 && size === bytes.length ? bytes : bytes.subarray(at, at + size), false);
      at += size;
    }
    return !this.over && !this.cancelled;
  }

  /** The end of a streamed answer, or of a call that was cancelled. */
  finish() {
    if (this.over) return;
    if (this.cancelled) this.connection.plain(END, this.stream);
    else this.connection.data(this.stream, EMPTY, true);
    this.close();
  }

  /** The call failed. */
  fail(error, type) {
    if (this.over) return;
    if (this.cancelled) {
      this.connection.plain(END, this.stream);
    } else {
      // The caller is told that it failed; why is for the function's log.
      logs.within(this, () => logs.say(2, `${logs.describe(error)}\n`));
      this.connection.json(ERROR, this.stream, logs.failure(type, error));
    }
    this.close();
  }

  close() {
    this.over = true;
    const { state } = this.connection;
    this.connection.calls.delete(this.stream);
    this.first = null;
    if (this.partial !== undefined || state.serial) logs.end(this);
    state.callEnded();
  }
}

const EMPTY = Buffer.alloc(0);

function ignore() {}

function header(out, at, length, kind, flags, stream) {
  out[at] = length >>> 24;
  out[at + 1] = length >>> 16;
  out[at + 2] = length >>> 8;
  out[at + 3] = length;
  out[at + 4] = kind;
  out[at + 5] = flags;
  out[at + 6] = stream >>> 24;
  out[at + 7] = stream >>> 16;
  out[at + 8] = stream >>> 8;
  out[at + 9] = stream;
}

/** The object that a text of JSON is; null when it is none. */
function object(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === 'object' && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

/** Compares without telling by its duration where the first difference is. */
function same(left, right) {
  let difference = left.length ^ right.length;
  for (let index = 0; index < right.length; index++) difference |= left.charCodeAt(index) ^ right.charCodeAt(index);
  return difference === 0;
}

module.exports = { Connection, object };
