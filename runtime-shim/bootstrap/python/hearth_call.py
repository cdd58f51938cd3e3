"""One call, between the frames thread that feeds it and the handler that answers it. Nobody calls before a load, so it comes with that."""

import _struct
import _thread

import hearth_logs
import hearth_threads
from hearth_bootstrap import ANSWER, CREDIT, DATA, END, ERROR, FLAG_END, INITIAL_CREDIT, error_body


class Call:
    """One call. The handler's part (hearth_event.py and its neighbours) answers it, from whatever thread."""

    __slots__ = (
        "connection", "stream", "id", "deadline_ms", "head", "ended", "body", "on_body", "window", "on_window", "over",
        "last", "cancelled", "on_cancel", "partial", "lock", "task",
    )

    def __init__(self, connection, stream, call_id, deadline_ms, head, ended, body):
        self.connection = connection
        self.stream = stream
        self.id = call_id
        self.deadline_ms = deadline_ms
        self.head = head
        self.ended = ended  # the body is complete
        self.body = body  # what of it has not been used
        self.on_body = None  # called when more of it is there
        self.window = INITIAL_CREDIT  # answer bytes that may be sent
        self.on_window = None  # called when that grows
        self.over = False
        self.last = None  # its last frame, between the decision and its end
        self.cancelled = False
        self.on_cancel = None
        self.partial = None  # what it printed without a newline, by stream
        self.lock = _thread.allocate_lock()
        self.task = None

    # From the frames thread.

    def data(self, data, end):
        with self.lock:
            self.body += data
            self.ended = self.ended or end
            notify = self.on_body
        if notify is not None:
            notify()

    def credit(self, amount):
        with self.lock:
            self.window += amount
            notify = self.on_window
        if notify is not None:
            notify()

    def cancel(self):
        with self.lock:
            if self.over or self.cancelled:
                return
            self.cancelled = True
            self.ended = True
            notify = [self.on_body, self.on_window, self.on_cancel]
        for each in notify:
            if each is not None:
                each()

    # From the handler's side.

    def take_body(self):
        """What has come of the body, and whether that is the end; the caller may send as much again."""
        with self.lock:
            data, self.body = self.body, b""
            ended = self.ended
        if data and not ended and not self.over:
            self.connection.frame(CREDIT, 0, self.stream, len(data).to_bytes(4, "big"))
        return data, ended

    def take_window(self, most):
        """So many bytes of the answer may be sent now, and are taken as sent."""
        with self.lock:
            taken = min(self.window, most)
            self.window -= taken
        return taken

    def respond(self, status, lines, body):
        """The whole answer at once, if credit allows; false otherwise."""
        if len(body) > self.window and not self.cancelled:
            return False
        self.end(ANSWER, FLAG_END, _struct.pack(">HI", status, len(lines)) + lines + body)
        return True

    def begin(self, status, lines):
        head = _struct.pack(">HI", status, len(lines))
        self.connection.frame(ANSWER, 0, self.stream, head + lines)

    def piece(self, data):
        self.connection.frame(DATA, 0, self.stream, data)

    def finish(self):
        """The end of a streamed answer, or of a call that was cancelled."""
        self.end(DATA, FLAG_END, b"")

    def fail(self, kind, message, stack=None):
        # The caller is told that it failed; why is for the function's log.
        if not self.over and not self.cancelled:
            hearth_logs.failed(self, stack or "%s: %s" % (kind, message))
        self.end(ERROR, 0, error_body(kind, message, stack))

    def end(self, kind, flags, payload):
        """The last frame of the call; of one that was cancelled it is `end`."""
        with self.lock:
            if self.over:
                return
            self.over = True
            self.body = b""
            self.on_body = self.on_window = self.on_cancel = None
            if self.cancelled:
                kind, flags, payload = END, 0, b""
            self.last = kind, flags, payload
        if self.cancelled and self.task is not None:
            # From here on the thread is not to be interrupted. If it was just before, `settle` is left to Workers.
            hearth_threads.calm(self.task)
        self.settle()

    def settle(self):
        """Gives the slot back and sends the last frame, once."""
        last, self.last = self.last, None
        if last is None:
            return
        instance = self.connection.instance
        self.connection.calls.pop(self.stream, None)
        # Before the caller hears of it and sends the next one.
        instance.call_ended(self)
        kind, flags, payload = last
        self.connection.frame(kind, flags, self.stream, payload)
        instance.end_if_drained()
