"""The Python bootstrap: speaks Hearth's invocation protocol (crates/protocol) on the listening socket it inherits.

Frames are read by a thread of their own; the main thread loads the user's code and then runs its event loop (async handlers) or
waits (sync handlers, which run in worker threads). A first `welcome` needs none of the standard library's larger modules, so
none is imported here: `_socket` and not `socket`, `_json` and not `json`. What a load needs is in hearth_load.py.

Descriptors: 3 listening socket, 4 log records to the shim, 5 boot configuration (JSON, read once).
"""

import _json
import _signal
import _socket
import _struct
import _thread
import os
import select
import sys

HELLO, WELCOME, LOAD, LOADED, INVOKE, ACCEPT, DATA, CREDIT, ANSWER = 1, 2, 3, 4, 5, 6, 7, 8, 9
ERROR, CANCEL, END, PING, PONG, BUSY, DRAIN, ATTACH = 11, 12, 13, 15, 16, 17, 18, 19
FLAG_END, FLAG_ACCEPT = 1, 2
HEADER = _struct.Struct(">IBBI")
MAX_PAYLOAD = 1 << 20
INITIAL_CREDIT = 64 * 1024
# Below the size from which the allocator asks the kernel for each piece, and gives it back.
READ_BYTES = 64 * 1024
MAX_STACK = 16 * 1024
SOON = 0.01  # seconds


class _JsonContext:
    """What the C scanner asks for; `json` itself would bring `re` with it."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo = {}


_scan = _json.make_scanner(_JsonContext())


def parse(data):
    """JSON that starts at the first byte, as every frame's does."""
    return _scan(data.decode("utf-8"), 0)[0]


def quote(text):
    return _json.encode_basestring_ascii(text)


def error_body(kind, message, stack=None):
    text = '{"type":%s,"message":%s' % (quote(kind), quote(message[:MAX_STACK]))
    if stack is not None:
        text += ',"stack":' + quote(stack[:MAX_STACK])
    return (text + "}").encode()


class Connection:
    """One connection, from the instance's side."""

    def __init__(self, instance, sock):
        self.instance = instance
        self.sock = sock
        self.inbox = b""
        self.outbox = b""
        self.lock = _thread.allocate_lock()
        self.greeted = False
        self.closing = False
        self.last = 0
        self.calls = {}

    def frame(self, kind, flags, stream, payload):
        self.write(HEADER.pack(len(payload), kind, flags, stream) + payload)

    def error(self, stream, kind, message):
        self.frame(ERROR, 0, stream, error_body(kind, message))

    def write(self, data):
        """Writes at once what the kernel takes; the frames thread writes the rest. Bounded by the calls' credit."""
        with self.lock:
            if self.outbox:
                self.outbox += data
                return
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return
            if sent < len(data):
                self.outbox = data[sent:]
                self.watch(select.EPOLLIN | select.EPOLLOUT)

    def flush(self):
        """Writes what is left; true when nothing is."""
        with self.lock:
            while self.outbox:
                try:
                    self.outbox = self.outbox[self.sock.send(self.outbox):]
                except BlockingIOError:
                    return False
                except OSError:
                    self.outbox = b""
            # With the lock held, so that it cannot undo what another thread's write has just asked for.
            self.watch(select.EPOLLIN)
        return True

    def watch(self, events):
        """What the frames thread waits for here."""
        try:
            self.instance.poll.modify(self.sock.fileno(), events)
        except (OSError, ValueError):
            # It has been closed meanwhile.
            pass

    def read(self):
        """Takes what has come; false when the connection is at its end."""
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        if self.inbox:
            data = self.inbox + data
        at, length, started, good = 0, len(data), [], True
        while good and length - at >= 10:
            size, kind, flags, stream = HEADER.unpack_from(data, at)
            if size > MAX_PAYLOAD:
                good = self.refuse("ProtocolViolation", "a frame that is too long")
                break
            end = at + 10 + size
            if end > length:
                break
            good = self.take(kind, flags, stream, data[at + 10:end], started)
            at = end
        self.inbox = data[at:]
        # Those before a violation too: they hold slots, and give them back when they end.
        if started:
            self.instance.handler.start(started)
        return good

    def take(self, kind, flags, stream, payload, started):
        instance = self.instance
        if not self.greeted:
            return self.greet(kind, payload)
        if kind == INVOKE:
            return self.invoke(flags, stream, payload, started)
        if kind in (DATA, CREDIT, CANCEL):
            call = self.calls.get(stream)
            if call is None:
                return stream <= self.last or self.refuse("ProtocolViolation", "a call that does not exist")
            # It may have come with the same read.
            if call in started:
                instance.handler.start(started)
                started.clear()
            if kind == CREDIT and len(payload) != 4:
                return self.refuse("ProtocolViolation", "malformed credit")
            if kind == DATA:
                call.data(payload, flags & FLAG_END != 0)
            elif kind == CREDIT:
                call.credit(int.from_bytes(payload, "big"))
            else:
                call.cancel()
        elif kind == PING:
            if len(payload) != 8:
                return self.refuse("ProtocolViolation", "malformed ping")
            if instance.handler is None:
                instance.ask_to_exercise(self, payload)
            else:
                instance.handler.ping(lambda: self.frame(PONG, 0, 0, payload))
        elif kind == LOAD:
            return instance.ask_to_load(self, payload)
        elif kind == DRAIN:
            instance.drain()
        else:
            return self.refuse("ProtocolViolation", "frame kind %d is not legal here" % kind)
        return True

    def greet(self, kind, payload):
        if kind not in (HELLO, ATTACH):
            return self.refuse("ProtocolViolation", "the first frame is hello or attach")
        try:
            hello = parse(payload)
            secret, versions = hello["secret"], (hello["minVersion"], hello["maxVersion"])
            good = versions[0] <= 1 <= versions[1]
        except (StopIteration, ValueError, KeyError, TypeError, RecursionError):
            return self.refuse("ProtocolViolation", "malformed hello")
        instance = self.instance
        if not same(secret, instance.boot["secret"]):
            return self.refuse("SecretRefused", "the secret is not this instance's")
        if not good:
            return self.refuse("VersionRefused", "this instance speaks version 1")
        if kind == ATTACH or hello.get("role") != "invoke":
            return self.refuse("NotServed", "Python is not served over attached connections")
        self.greeted = True
        text = '{"version":1,"instance":%s,"served":%d' % (quote(instance.boot["instance"]), instance.served)
        if instance.handler is not None:
            text += ',"signature":"%s"' % instance.handler.signature
        self.frame(WELCOME, 0, 0, (text + "}").encode())
        self.tell_ending()
        return True

    def tell_ending(self):
        """Tells that the instance is to end, if it is: another may be needed while it runs its last calls."""
        if self.greeted and self.instance.draining:
            self.frame(DRAIN, 0, 0, b"")

    def invoke(self, flags, stream, payload, started):
        if stream != self.last + 1:
            return self.refuse("ProtocolViolation", "call %d where %d was next" % (stream, self.last + 1))
        self.last = stream
        instance = self.instance
        if instance.handler is None:
            self.error(stream, "NotLoaded", "nothing is loaded yet")
            return True
        try:
            deadline_ms = int.from_bytes(payload[:4], "big")
            id_end = 5 + payload[4]
            head_end = id_end + 4 + int.from_bytes(payload[id_end:id_end + 4], "big")
            call_id = payload[5:id_end].decode("ascii")
        except (IndexError, UnicodeDecodeError):
            return self.refuse("ProtocolViolation", "malformed invoke")
        if head_end > len(payload):
            return self.refuse("ProtocolViolation", "malformed invoke")
        if not instance.call_begins():
            self.frame(BUSY, 0, stream, b"")
            return True
        call = instance.new_call(
            self, stream, call_id, deadline_ms, payload[id_end + 4:head_end], flags & FLAG_END != 0, payload[head_end:]
        )
        self.calls[stream] = call
        if flags & FLAG_ACCEPT:
            self.frame(ACCEPT, 0, stream, b"")
        started.append(call)
        return True

    def refuse(self, kind, message):
        self.error(0, kind, message)
        self.flush()
        return False

    def close(self):
        # Nobody waits for these any more; each still ends in its own time.
        for call in list(self.calls.values()):
            call.cancel()
        with self.lock:
            self.outbox = b""
            self.sock.close()


def same(left, right):
    """Compares without telling by its duration where the first difference is."""
    if not isinstance(left, str) or len(left) != len(right):
        return False
    difference = 0
    for a, b in zip(left, right):
        difference |= ord(a) ^ ord(b)
    return difference == 0


class Instance:
    """The state of the process: its connections, its handler, its calls."""

    def __init__(self, boot):
        self.boot = boot
        self.new_call = None  # hearth_call.Call, from the load on
        self.handler = None  # what `load` made: signature, start(calls), ping(answer), run(), stop()
        self.load_request = None
        self.load_asked = _thread.allocate_lock()
        self.load_asked.acquire()
        self.exercised = False
        self.preloaded = frozenset()  # modules that the exercise brought in
        self.pings = []  # that are answered when it is over
        self.connections = {}
        self.put_off = []  # what the frames thread is to do soon: at most one thing for each call
        self.served = 0
        self.running = 0
        self.concurrency = max(1, boot["concurrency"])
        self.draining = False
        self.lock = _thread.allocate_lock()
        self.on_call_end = None
        self.listener = _socket.socket(fileno=3)
        self.listener.setblocking(False)
        os.set_inheritable(3, False)
        os.set_inheritable(4, False)
        self.poll = select.epoll()
        self.poll.register(3, select.EPOLLIN)
        self.wake_in, self.wake_out = os.pipe()
        os.set_blocking(self.wake_out, False)
        self.poll.register(self.wake_in, select.EPOLLIN)

    # Frames thread.

    def frames(self):
        try:
            while True:
                for descriptor, event in self.poll.poll(SOON if self.put_off else None):
                    if descriptor == 3:
                        self.accept()
                    elif descriptor == self.wake_in:
                        if _signal.SIGTERM in os.read(self.wake_in, 4096):
                            self.drain()
                    else:
                        self.serve(descriptor, event)
                if self.put_off:
                    put_off, self.put_off = self.put_off, []
                    for each in put_off:
                        each()
        except BaseException as error:  # noqa: B036 - without this thread the process is of no use
            os.write(2, b"the invocation protocol failed: %r\n" % error)
            os._exit(70)

    def again(self, act):
        """Does it a moment later."""
        self.put_off.append(act)

    def accept(self):
        try:
            descriptor, _ = self.listener._accept()
        except OSError:
            return
        sock = _socket.socket(fileno=descriptor)
        sock.setblocking(False)
        self.connections[descriptor] = Connection(self, sock)
        self.poll.register(descriptor, select.EPOLLIN)

    def serve(self, descriptor, event):
        connection = self.connections.get(descriptor)
        if connection is None:
            return
        if event & select.EPOLLOUT:
            connection.flush()
        if event & ~select.EPOLLOUT and not connection.read():
            del self.connections[descriptor]
            self.poll.unregister(descriptor)
            connection.close()

    def ask_to_load(self, connection, payload):
        if self.load_request is not None:
            connection.frame(LOADED, 0, 0, b'{"result":"error","type":"AlreadyLoaded","message":"code was loaded before"}')
            return True
        try:
            request = parse(payload)
        except (StopIteration, ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            return connection.refuse("ProtocolViolation", "malformed load")
        self.load_request = connection, request
        if self.load_asked.locked():
            self.load_asked.release()
        return True

    def ask_to_exercise(self, connection, payload):
        """A ping before the load: this instance is to be pooled, and does now what its load would have to wait for."""
        with self.lock:
            if not self.exercised and self.load_request is None:
                self.pings.append((connection, payload))
                if self.load_asked.locked():
                    self.load_asked.release()
                return
        connection.frame(PONG, 0, 0, payload)

    # Any thread.

    def call_begins(self):
        with self.lock:
            # Callers know how many they may send; this is the net below.
            if self.draining or self.running >= self.concurrency:
                return False
            self.running += 1
            return True

    def call_ended(self, call):
        if self.on_call_end is not None:
            self.on_call_end(call)
        with self.lock:
            self.served += 1
            self.running -= 1

    def end_if_drained(self):
        with self.lock:
            last = self.draining and self.running == 0
        if last:
            self.end()

    def drain(self):
        """No new calls; the process ends after the last one, and says so to those that are connected."""
        with self.lock:
            if self.draining:
                return
            self.draining = True
        for connection in list(self.connections.values()):
            connection.tell_ending()
        self.end_if_drained()

    def end(self):
        if self.handler is None:
            self.exit(0)
        else:
            self.handler.stop()

    def exit(self, code):
        """Ends the process with what it has still to say written."""
        for connection in list(self.connections.values()):
            for _ in range(50):
                if connection.flush():
                    break
                select.select([], [connection.sock.fileno()], [], 0.01)
        os._exit(code)

    # Main thread.

    def exercise(self):
        if not self.exercised:
            import hearth_exercise

            self.preloaded = hearth_exercise.run(self.boot)
        with self.lock:
            self.exercised = True
            pings, self.pings = self.pings, []
        for connection, payload in pings:
            connection.frame(PONG, 0, 0, payload)

    def main(self):
        # The numbers of signals that come go to the frames thread. Python's own way is not good enough here: its handlers run in the
        # main thread, which may hold a lock that the drain needs, or may be just about to wait for something else.
        _signal.set_wakeup_fd(self.wake_out, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGTERM, lambda *_: None)
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        _thread.start_new_thread(self.frames, ())
        sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
        while self.load_request is None:
            self.load_asked.acquire()
            if self.pings:
                self.exercise()
        connection, request = self.load_request
        import hearth_call
        import hearth_load

        self.new_call = hearth_call.Call
        handler = hearth_load.load(self, request, connection)
        if handler is None:
            # The pool ends an instance that could not load.
            while True:
                self.load_asked.acquire()
        handler.run()


if __name__ == "__main__":
    with open(5, "rb") as file:
        BOOT = parse(file.read())
    # The modules of the bootstrap find this one by a name of its own: user code may have a `bootstrap` too.
    sys.modules["hearth_bootstrap"] = sys.modules["__main__"]
    Instance(BOOT).main()
