"""Worker threads for handlers that block: as many as calls may run at once, started when they are first needed."""

import _queue
import _thread
import sys
import threading

import hearth_logs


class Cancelled(BaseException):
    """Raised in the thread of a handler whose call was cancelled, at its next step in Python."""


class _Ahead:
    """A thread that a pooled instance has started before it knows whose it will be: to start one is the longest part of a first call."""

    def __init__(self):
        self._work = _queue.SimpleQueue()
        # What a tool of the user's replaces, so that it sees every thread start, is to see this one.
        self._start = threading.Thread.start
        threading.Thread(target=lambda: self._work.get()(), daemon=True, name="hearth-1").start()

    def take(self, work):
        """Has it do the work; false when it must not."""
        if threading.Thread.start is not self._start or threading.gettrace() or threading.getprofile():
            return False
        self._work.put(work)
        return True


_ahead = None


def start_ahead():
    global _ahead
    _ahead = _Ahead()


class Workers:
    def __init__(self, most, work):
        self._most = max(1, most)
        self._work = work
        self._waiting = _queue.SimpleQueue()
        self._lock = _thread.allocate_lock()
        self._threads = 0
        self._idle = 0

    def start(self, calls):
        for call in calls:
            self._waiting.put(call)
        with self._lock:
            missing = min(len(calls) - self._idle, self._most - self._threads)
            for _ in range(missing):
                self._threads += 1
                if self._threads == 1 and _ahead is not None and _ahead.take(self._run):
                    continue
                threading.Thread(target=self._run, daemon=True, name="hearth-%d" % self._threads).start()

    def _run(self):
        me = threading.get_ident()
        while True:
            with self._lock:
                self._idle += 1
            call = self._waiting.get()
            with self._lock:
                self._idle -= 1
            hearth_logs.begin(call)
            try:
                self._one(call, me)
            except Cancelled:
                # It came when the handler had just ended.
                pass
            if not call.over:
                call.finish()
            # Where it was interrupted at its very end.
            call.settle()
            hearth_logs.current.set(None)

    def _one(self, call, me):
        try:
            with call.lock:
                call.task = me
                call.on_cancel = lambda: interrupt(call, me)
            if not call.cancelled:
                self._work(call)
        except Cancelled:
            pass
        except BaseException as error:  # noqa: B036 - SystemExit too is this call's matter
            failed(call, error)
        finally:
            with call.lock:
                call.task = None
            if call.cancelled:
                # One that was set and not yet raised must not meet the next call.
                calm(me)


def failed(call, error):
    import traceback

    text = "".join(traceback.format_exception(error))
    kind = type(error).__name__
    call.fail(kind, str(error) or kind, text)


def interrupt(call, thread):
    """Raises Cancelled in the handler's thread. A call into C (a sleep, a read) is not interrupted, but ends with it."""
    with call.lock:
        if call.task != thread or call.over:
            return
        if _imports(thread):
            # An import that is broken off in the wrong place leaves its lock behind, and nobody ever imports that module again.
            call.connection.instance.again(lambda: interrupt(call, thread))
            return
        _set_exception(thread, Cancelled)


def _imports(thread):
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def calm(thread):
    """Takes back a Cancelled that was not raised yet."""
    _set_exception(thread, None)


def _set_exception(thread, kind):
    import ctypes

    value = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), value)


class Waiter:
    """Waits, in a worker thread, for what the frames thread brings."""

    def __init__(self):
        self._event = threading.Semaphore(0)

    def notify(self):
        self._event.release()

    def wait(self):
        self._event.acquire()


def read_all(call):
    """The rest of a body, waiting for it."""
    waiter = Waiter()
    with call.lock:
        call.on_body = waiter.notify
    pieces = []
    while True:
        data, ended = call.take_body()
        pieces.append(data)
        if ended:
            return b"".join(pieces)
        waiter.wait()


def write_all(call, data):
    """Sends a piece of an answer, waiting for credit; false when nobody wants it any more."""
    waiter = None
    view = memoryview(data)
    while view:
        if call.cancelled:
            return False
        taken = call.take_window(min(len(view), 256 * 1024))
        if taken == 0:
            if waiter is None:
                waiter = Waiter()
                with call.lock:
                    call.on_window = waiter.notify
                # It may have come just before.
                continue
            waiter.wait()
            continue
        call.piece(bytes(view[:taken]))
        view = view[taken:]
    return not call.cancelled
