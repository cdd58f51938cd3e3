"""The `asgi` signature: an ASGI 3 application, with lifespan; bodies stream both ways. WebSockets are refused by the gateway's 501:
this signature's calls come as frames, and an upgrade needs a connection."""

import asyncio
from urllib.parse import unquote_to_bytes

import hearth_logs
import hearth_threads
from hearth_bootstrap import parse
from hearth_load import Refused
from hearth_loop import Loop

DROPPED = frozenset(
    b"connection content-length keep-alive proxy-connection te trailer transfer-encoding upgrade".split()
)
ASGI = {"version": "3.0", "spec_version": "2.3"}


class Handler:
    signature = "asgi"

    def __init__(self, instance, application, load):
        self._instance = instance
        self._application = application
        self._loop = Loop(instance, self._run)
        self._state = {}
        self._lifespan = None
        self._loop.loop.run_until_complete(self._startup())

    def start(self, calls):
        self._loop.start(calls)

    def ping(self, give):
        self._loop.ping(give)

    def run(self):
        self._loop.run()

    def stop(self):
        self._loop.loop.call_soon_threadsafe(lambda: self._loop.loop.create_task(self._shutdown()))

    async def _startup(self):
        """Tells the application that it starts; one that knows no lifespan is none the worse."""
        self._inbox = asyncio.Queue()
        told = self._loop.loop.create_future()
        self._gone = self._loop.loop.create_future()

        async def send(message):
            kind = message["type"]
            if kind == "lifespan.startup.failed":
                if not told.done():
                    told.set_exception(Refused("LoadFailed", "lifespan startup failed: " + message.get("message", "")))
            elif kind == "lifespan.startup.complete":
                if not told.done():
                    told.set_result(True)
            elif not self._gone.done():
                self._gone.set_result(None)

        async def run():
            scope = {"type": "lifespan", "asgi": ASGI, "state": self._state}
            try:
                await self._application(scope, self._inbox.get, send)
            except BaseException as error:  # noqa: B036
                if told.done() and not self._gone.done():
                    hearth_logs.say(2, "lifespan: %r\n" % error)
            finally:
                if not told.done():
                    told.set_result(False)
                if not self._gone.done():
                    self._gone.set_result(None)

        self._lifespan = self._loop.loop.create_task(run())
        await self._inbox.put({"type": "lifespan.startup"})
        if not await told:
            self._lifespan = None
            self._state = None

    async def _shutdown(self):
        if self._lifespan is not None:
            await self._inbox.put({"type": "lifespan.shutdown"})
            await asyncio.wait([self._gone], timeout=5)
        hearth_logs.flush()
        self._instance.exit(0)

    async def _run(self, call):
        scope = _scope(parse(call.head))
        if self._state is not None:
            scope["state"] = self._state.copy()
        pieces = self._loop.pieces(call)
        done = False
        started = None
        begun = False
        disconnected = asyncio.Event()
        call.on_cancel = lambda: self._loop.loop.call_soon_threadsafe(disconnected.set)

        async def receive():
            nonlocal done
            if not done:
                if call.ended and not call.cancelled:
                    # All of it is here: one message.
                    data, done = call.take_body()
                    return {"type": "http.request", "body": data, "more_body": False}
                async for data in pieces:
                    return {"type": "http.request", "body": data, "more_body": True}
                done = True
                if not call.cancelled:
                    return {"type": "http.request", "body": b"", "more_body": False}
            if not call.over:
                await disconnected.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            nonlocal started, begun
            kind = message["type"]
            if kind == "http.response.start":
                if started is not None:
                    raise RuntimeError("http.response.start was sent before")
                started = _head(message)
                return
            if kind != "http.response.body":
                raise RuntimeError("%s is not served" % kind)
            if started is None:
                raise RuntimeError("http.response.body before http.response.start")
            if call.over or call.cancelled:
                return
            body, more = message.get("body", b""), message.get("more_body", False)
            if not begun and not more and call.respond(*started, bytes(body)):
                disconnected.set()
                return
            if not begun:
                begun = True
                call.begin(*started)
            if body and not await self._loop.write_all(call, body):
                return
            if not more:
                call.finish()
                disconnected.set()

        try:
            await self._application(scope, receive, send)
        except (KeyboardInterrupt, SystemExit, Exception) as error:
            if not call.over:
                hearth_threads.failed(call, error)
            else:
                # A task that the answer did not wait for.
                import traceback

                traceback.print_exc()
        if not call.over and not call.cancelled:
            call.fail("AnswerInvalid", "the application returned without a complete answer")


def _scope(head):
    path, _, query = head["target"].partition("?")
    scheme = head["scheme"]
    host, _, port = head["authority"].rpartition(":")
    if not host or not port.isdigit():
        host, port = head["authority"], "443" if scheme == "https" else "80"
    client, _, client_port = head["peer"].rpartition(":")
    return {
        "type": "http",
        "asgi": ASGI,
        "http_version": "1.1",
        "method": head["method"],
        "scheme": scheme,
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path.encode("latin-1", "replace"),
        "query_string": query.encode("latin-1", "replace"),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head["headers"]],
        "client": (client.strip("[]"), int(client_port)) if client_port.isdigit() else None,
        "server": (host.strip("[]"), int(port)),
    }


def _head(message):
    lines = []
    for name, value in message.get("headers", ()):
        name = bytes(name).lower()
        if name not in DROPPED:
            lines.append(name + b": " + bytes(value) + b"\n")
    return message["status"], b"".join(lines)
