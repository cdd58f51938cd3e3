"""The `event` signature: (event, context), with the event and the answer rules of Function URL payload 2.0.

A dict with a `statusCode` is taken for {statusCode, headers, cookies, body, isBase64Encoded}; anything else is the body itself, as
JSON, with status 200. Sync handlers run in threads, async ones on the main thread's loop.
"""

import _json
import binascii
import os
import time

import hearth_logs
import hearth_threads
from hearth_bootstrap import parse

JSON_LINE = "content-type: application/json\n"
DROPPED = frozenset(
    "connection content-length date keep-alive proxy-connection te trailer transfer-encoding upgrade".split()
)
TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")


class AnswerInvalid(Exception):
    pass


def _refuse(value):
    raise TypeError("Object of type %s is not JSON serializable" % type(value).__name__)


def dumps(value):
    """What `json.dumps(value, ensure_ascii=False)` gives, by the C encoder behind it: `json` would bring `re` into every cold start."""
    encode = _json.make_encoder({}, _refuse, _json.encode_basestring, None, ": ", ", ", False, False, True)
    return "".join(encode(value, 0))


class Context:
    """What a handler is told beside the event; the names are Lambda's."""

    identity = None
    client_context = None

    def __init__(self, call, load):
        self.aws_request_id = call.id
        self.function_name = load["function"]
        self.function_version = load["revision"]
        self.memory_limit_in_mb = str(round(load["memoryBytes"] / 1048576))
        self.invoked_function_arn = "arn:hearth:functions:%s:%s" % (load["namespace"], load["function"])
        self.log_group_name = "/hearth/%s/%s" % (load["namespace"], load["function"])
        self.log_stream_name = os.environ.get("HEARTH_INSTANCE", "")
        limit = call.deadline_ms or load.get("executeTimeoutMs") or 0
        self._until = time.monotonic() + limit / 1000 if limit else None

    def get_remaining_time_in_millis(self):
        if self._until is None:
            return 2147483647
        return max(0, int((self._until - time.monotonic()) * 1000))

    def log(self, message):
        print(message)


def answer(result):
    """Status, header lines and body of a handler's result."""
    if not isinstance(result, dict) or "statusCode" not in result:
        return 200, JSON_LINE.encode(), dumps(result).encode()
    try:
        status = int(result["statusCode"])
    except (TypeError, ValueError):
        status = 0
    if not 200 <= status <= 599:
        raise AnswerInvalid("statusCode %r is no final HTTP status" % (result["statusCode"],))
    lines, typed = [], False
    for name, value in (result.get("headers") or {}).items():
        name = str(name).lower()
        if value is None or name in DROPPED:
            continue
        typed = typed or name == "content-type"
        for one in value if isinstance(value, (list, tuple)) else (value,):
            lines.append(line(name, one))
    for cookie in result.get("cookies") or ():
        lines.append(line("set-cookie", cookie))
    if not typed:
        lines.append(JSON_LINE)
    body = result.get("body")
    if body is None:
        body = b""
    elif isinstance(body, (bytes, bytearray)):
        body = bytes(body)
    elif result.get("isBase64Encoded"):
        body = binascii.a2b_base64(str(body))
    else:
        body = (body if isinstance(body, str) else dumps(body)).encode()
    return status, "".join(lines).encode("latin-1"), body


def line(name, value):
    text = ("true" if value else "false") if isinstance(value, bool) else str(value)
    if not name or not TOKEN.issuperset(name):
        raise AnswerInvalid('"%s" is no header\'s name' % name)
    if any(character < " " and character != "\t" or character == "\x7f" or character > "\xff" for character in text):
        raise AnswerInvalid("the value of header %s has a character that HTTP does not allow" % name)
    return "%s: %s\n" % (name, text)


def event_of(call, body):
    event = parse(call.head)
    if body is not None:
        encoded = binascii.b2a_base64(body, newline=False).decode() if event.get("isBase64Encoded") else body.decode("utf-8", "replace")
        event["body"] = encoded
    return event


class Handler:
    signature = "event"

    def __init__(self, instance, target, is_async, load):
        self._instance = instance
        self._target = target
        self._load = load
        if is_async:
            import hearth_loop

            self._loop = hearth_loop.Loop(instance, self._run_async)
        else:
            self._loop = None
            self._workers = hearth_threads.Workers(load["concurrency"], self._run_sync)

    def start(self, calls):
        (self._loop or self._workers).start(calls)

    def ping(self, give):
        if self._loop is None:
            give()
        else:
            self._loop.ping(give)

    def run(self):
        if self._loop is not None:
            self._loop.run()
        import threading

        while True:
            threading.Event().wait()

    def stop(self):
        hearth_logs.flush()
        self._instance.exit(0)

    def _run_sync(self, call):
        body = None if call.ended and not call.body else hearth_threads.read_all(call)
        if call.cancelled:
            return
        result = self._target(event_of(call, body), Context(call, self._load))
        status, lines, body = answer(result)
        if not call.respond(status, lines, body):
            call.begin(status, lines)
            hearth_threads.write_all(call, body)
            call.finish()

    async def _run_async(self, call):
        body = None if call.ended and not call.body else await self._loop.read_all(call)
        if call.cancelled:
            return
        result = await self._target(event_of(call, body), Context(call, self._load))
        status, lines, body = answer(result)
        if not call.respond(status, lines, body):
            call.begin(status, lines)
            await self._loop.write_all(call, body)
            call.finish()
