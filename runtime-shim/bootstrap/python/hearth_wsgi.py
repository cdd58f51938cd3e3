"""The `wsgi` signature (PEP 3333). Each call runs in a worker thread; bodies stream both ways."""

import io
import sys
from urllib.parse import unquote_to_bytes

import hearth_logs
import hearth_threads
from hearth_bootstrap import parse

DROPPED = frozenset(
    "connection content-length keep-alive proxy-connection te trailer transfer-encoding upgrade".split()
)


class Input(io.RawIOBase):
    """`wsgi.input`: waits for what has not come yet."""

    def __init__(self, call):
        self._call = call
        self._waiter = hearth_threads.Waiter()
        self._data = b""
        self._ended = False
        with call.lock:
            call.on_body = self._waiter.notify

    def readable(self):
        return True

    def readinto(self, buffer):
        while not self._data and not self._ended:
            self._data, self._ended = self._call.take_body()
            if not self._data and not self._ended:
                self._waiter.wait()
        if self._call.cancelled:
            raise OSError("the client went away")
        taken = self._data[:len(buffer)]
        buffer[:len(taken)] = taken
        self._data = self._data[len(taken):]
        return len(taken)


class Handler:
    signature = "wsgi"

    def __init__(self, instance, application, load):
        self._instance = instance
        self._application = application
        self._concurrency = load["concurrency"]
        self._workers = hearth_threads.Workers(self._concurrency, self._run)

    def start(self, calls):
        self._workers.start(calls)

    def ping(self, give):
        give()

    def run(self):
        import threading

        while True:
            threading.Event().wait()

    def stop(self):
        hearth_logs.flush()
        self._instance.exit(0)

    def _run(self, call):
        head = None
        begun = False

        def write(data):
            nonlocal begun
            if head is None:
                raise AssertionError("write() before start_response()")
            if not begun:
                begun = True
                call.begin(*head)
            if not hearth_threads.write_all(call, data):
                raise OSError("the client went away")

        def start_response(status, headers, exc_info=None):
            nonlocal head
            if exc_info is not None:
                try:
                    if begun:
                        raise exc_info[1].with_traceback(exc_info[2])
                finally:
                    exc_info = None
            elif head is not None:
                raise AssertionError("start_response() was called before")
            lines = []
            for name, value in headers:
                if name.lower() not in DROPPED:
                    lines.append("%s: %s\n" % (name.lower(), value))
            head = int(status.split(" ", 1)[0]), "".join(lines).encode("latin-1")
            return write

        result = self._application(_environ(call, self._concurrency), start_response)
        try:
            if isinstance(result, (list, tuple)) and not begun and head is not None:
                body = b"".join(result)
                if call.respond(*head, body):
                    return
                result = (body,)
            for piece in result:
                if piece:
                    write(piece)
            if head is None:
                call.fail("AnswerInvalid", "the application did not call start_response()")
                return
            if not begun:
                if call.respond(*head, b""):
                    return
                call.begin(*head)
            call.finish()
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()


def _environ(call, concurrency):
    head = parse(call.head)
    path, _, query = head["target"].partition("?")
    scheme = head["scheme"]
    host, _, port = head["authority"].rpartition(":")
    if not host or not port.isdigit():
        host, port = head["authority"], "443" if scheme == "https" else "80"
    client, _, client_port = head["peer"].rpartition(":")
    environ = {
        "REQUEST_METHOD": head["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "RAW_URI": head["target"],
        "REQUEST_URI": head["target"],
        "QUERY_STRING": query,
        "SERVER_NAME": host.strip("[]"),
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": client.strip("[]"),
        "REMOTE_PORT": client_port,
        "HEARTH_REQUEST_ID": call.id,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.input": io.BufferedReader(Input(call), 64 * 1024),
        # The body's end is told by the frames, with or without a length.
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": concurrency > 1,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in head["headers"]:
        if name == "content-type":
            key = "CONTENT_TYPE"
        elif name == "content-length":
            key = "CONTENT_LENGTH"
        elif name == "proxy":
            # Programs take HTTP_PROXY for a setting.
            continue
        else:
            key = "HTTP_" + name.upper().replace("-", "_")
        environ[key] = environ[key] + "," + value if key in environ else value
    return environ
