"""What a pooled instance does before it knows its function, when it is pinged for the first time: it imports what a load and a first call
need, and much of what handlers import, and runs a load and calls of a handler of the bootstrap's own on a connection that leads nowhere.

Nothing of it stays but modules: paths, the working directory and the standard streams are as they were. A module that the function has a
file of its own for gives way to it (hearth_load.py), as it would in a fresh interpreter.
"""

import gc
import os
import sys

# Of the bootstrap, and what handlers mostly begin with: their import is the longest part of a small function's load.
OURS = ("hearth_load", "hearth_call", "hearth_logs", "hearth_threads", "hearth_event", "hearth_loop", "hearth_asgi", "hearth_wsgi")
THEIRS = (
    "importlib.util", "site", "traceback", "contextvars", "json", "re", "datetime", "logging", "base64", "hashlib", "uuid", "typing",
    "dataclasses", "enum", "collections.abc", "functools", "urllib.parse", "pathlib",
)
ROUNDS = 20
rehearsed = 0  # calls that were answered
EVENT = (
    b'{"version":"2.0","routeKey":"$default","rawPath":"/","rawQueryString":"","headers":{"host":"localhost"},'
    b'"requestContext":{"http":{"method":"GET","path":"/","protocol":"HTTP/1.1","sourceIp":"127.0.0.1"}},"isBase64Encoded":false}'
)


class _Stage:
    """An instance, for a function that does not exist."""

    def __init__(self, boot):
        self.boot = boot
        self.handler = None
        self.concurrency = 2
        self.on_call_end = None
        self.preloaded = frozenset()

    def call_ended(self, call):
        global rehearsed
        rehearsed += 1
        if self.on_call_end is not None:
            self.on_call_end(call)

    def end_if_drained(self):
        pass


class _Nowhere:
    """A connection that takes every frame and says nothing."""

    def __init__(self, stage):
        self.instance = stage
        self.calls = {}

    def frame(self, kind, flags, stream, payload):
        pass


def run(boot):
    """The names of the modules that came in, without the bootstrap's own."""
    before = set(sys.modules)
    for name in OURS + THEIRS:
        try:
            __import__(name)
        except Exception:  # noqa: S112 - an interpreter without it has it imported, or not, by the function
            continue
    here, argv, path, streams = os.getcwd(), sys.argv, sys.path[:], (sys.stdout, sys.stderr)
    try:
        _rehearse(boot)
    except Exception:  # noqa: S110 - what goes wrong here is slower later, and no more
        pass
    finally:
        sys.argv, sys.path[:] = argv, path
        sys.stdout, sys.stderr = streams
        sys.modules.pop("hearth_rehearsal", None)
        os.chdir(here)
    try:
        sys.modules["hearth_threads"].start_ahead()
    except (KeyError, RuntimeError):
        # The first call starts one.
        pass
    # What is there now stays: no collection during a load is to look through it.
    gc.collect()
    gc.freeze()
    came = {name.partition(".")[0] for name in set(sys.modules) - before}
    return frozenset(name for name in came if not name.startswith("hearth_"))


def _rehearse(boot):
    import hearth_load
    from hearth_call import Call

    stage = _Stage(boot)
    connection = _Nowhere(stage)
    request = {
        "code": os.path.dirname(os.path.abspath(__file__)), "handler": "hearth_rehearsal.handler", "signature": "auto", "env": {},
        "function": "exercise", "namespace": "exercise", "revision": "exercise-00001", "concurrency": 2,
        "memoryBytes": boot["memoryBytes"], "executeTimeoutMs": 1000,
    }
    handler = hearth_load.load(stage, request, connection)
    if handler is None:
        return
    for stream in range(1, ROUNDS + 1):
        handler._run_sync(Call(connection, stream, "exercise", 1000, EVENT, True, b""))
    import asyncio

    loop = asyncio.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
