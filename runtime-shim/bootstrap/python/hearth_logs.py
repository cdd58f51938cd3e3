"""What the function prints, with the request it was printed for.

`sys.stdout` and `sys.stderr` become files that write records to descriptor 4. The call is known from a context variable, which tasks and
`asyncio.to_thread` inherit; a thread that user code starts by itself has none. Where only one call may run at a time, it is simply that
one, and the raw descriptors are marked in addition, for child processes.
"""

import _thread
import contextvars
import io
import os
import sys

MAX_RECORD = 128 * 1024
MAX_PARTIAL = 16 * 1024

current = contextvars.ContextVar("hearth_call", default=None)

_serial = False
_single = None
_nonce = b""
_outside = {1: "", 2: ""}
_lock = _thread.allocate_lock()
# Reentrant: a signal's handler may print too.
_outside_lock = _thread.RLock()


def install(nonce, concurrency):
    global _serial, _nonce
    _serial = concurrency <= 1
    _nonce = nonce.encode()
    sys.stdout = Stream(1)
    sys.stderr = Stream(2)
    if _serial:
        # Of a pooled instance the shim did not know it: what is printed outside of calls is nobody's, and not one's of several.
        _mark(b"E")


def begin(call):
    """`call` runs from here on, in this context."""
    global _single
    if _serial:
        _single = call
        _mark(b"B" + call.id.encode())
    current.set(call)


def end(call):
    """`call` has ended: what it printed without a newline is written."""
    global _single
    partial, call.partial = call.partial, None
    if partial is not None:
        for stream, text in partial.items():
            if text:
                _record(stream, call, text)
    if _serial and _single is call:
        _single = None
        _mark(b"E")


def flush():
    for stream, text in list(_outside.items()):
        _outside[stream] = ""
        if text:
            _record(stream, None, text)


def _mark(what):
    # In the pipes themselves, so that the order to what child processes print is exact.
    text = b"\n\x01H" + _nonce + what + b"\n"
    try:
        os.write(1, text)
        os.write(2, text)
    except OSError:
        # The user's code has closed them.
        pass


def _record(stream, call, text):
    data = text.encode("utf-8", "replace")
    call_id = b"" if call is None else call.id.encode()
    flags = 1 if call is None and not _serial else 0
    while data:
        piece = data[:MAX_RECORD]
        if len(data) > MAX_RECORD:
            piece = piece[:piece.rfind(b"\n") + 1] or piece
        data = data[len(piece):]
        header = (3 + len(call_id) + len(piece)).to_bytes(4, "big") + bytes((stream, flags, len(call_id)))
        with _lock:
            out = header + call_id + piece
            try:
                while out:
                    out = out[os.write(4, out):]
            except OSError:
                # The shim is gone, and nobody reads any more.
                return


def say(stream, text):
    """Takes what was printed: whole lines go out, the rest waits for its end."""
    call = _single if _serial else current.get()
    if call is None or call.over:
        with _outside_lock:
            _say(stream, call, text, _outside)
        return
    if call.partial is None:
        call.partial = {1: "", 2: ""}
    _say(stream, call, text, call.partial)


def failed(call, text):
    """What a call failed with, among its own lines."""
    _record(2, call, text if text.endswith("\n") else text + "\n")


def _say(stream, call, text, partial):
    text = partial[stream] + text
    cut = text.rfind("\n") + 1
    if len(text) - cut > MAX_PARTIAL:
        cut = len(text)
    partial[stream] = text[cut:]
    if cut:
        _record(stream, call, text[:cut])


class _Raw(io.RawIOBase):
    """`sys.stdout.buffer`: bytes."""

    def __init__(self, stream):
        self._stream = stream

    def writable(self):
        return True

    def fileno(self):
        return self._stream

    def write(self, data):
        data = bytes(data)
        say(self._stream, data.decode("utf-8", "replace"))
        return len(data)


class Stream(io.TextIOBase):
    """`sys.stdout` and `sys.stderr`."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, stream):
        self._stream = stream
        self.buffer = _Raw(stream)
        self.name = "<stdout>" if stream == 1 else "<stderr>"
        self.mode = "w"

    def writable(self):
        return True

    def fileno(self):
        return self._stream

    def isatty(self):
        return False

    @property
    def line_buffering(self):
        return True

    def reconfigure(self, **_):
        """Nothing here can be configured."""

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError("write() argument must be str, not %s" % type(text).__name__)
        say(self._stream, text)
        return len(text)

    def flush(self):
        pass
