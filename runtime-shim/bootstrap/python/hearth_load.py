"""Finds the user's handler, imports it, and decides how it is called.

The handler is `module.name`, as in `main.handler` or `src/api.app`: the module is what stands before the last dot, slashes are dots.

`signature: auto` looks at what is there:

| what | signature |
|---|---|
| a callable whose parameters are called scope, receive and send, or an object with an async `__call__` of three (FastAPI, Starlette, Quart) | asgi |
| an object with `wsgi_app` (Flask), a callable whose parameters are called environ and start_response | wsgi |
| any other callable, sync or async | event |
"""

import os
import sys

import hearth_logs
from hearth_bootstrap import LOADED, quote

DEPENDENCIES = "/deps/python"
CO_COROUTINE = 0x80


class Refused(Exception):
    def __init__(self, kind, message, stack=None):
        super().__init__(message)
        self.kind = kind
        self.stack = stack


def load(instance, request, connection):
    """Loads what a `load` frame names and answers it; the handler, or None."""
    hearth_logs.install(instance.boot["nonce"], request["concurrency"])
    instance.concurrency = max(1, request["concurrency"])
    instance.on_call_end = hearth_logs.end
    try:
        handler = _load(instance, request)
    except Refused as refused:
        hearth_logs.flush()
        text = '{"result":"error","type":%s,"message":%s' % (quote(refused.kind), quote(str(refused)))
        if refused.stack is not None:
            text += ',"stack":' + quote(refused.stack[-16384:])
        connection.frame(LOADED, 0, 0, (text + "}").encode())
        return None
    instance.handler = handler
    connection.frame(LOADED, 0, 0, ('{"result":"ok","signature":"%s"}' % handler.signature).encode())
    return handler


def _load(instance, request):
    for name, value in (request.get("env") or {}).items():
        os.environ[name] = value
    code = request["code"]
    # The user's code has the word, before the standard library; the bootstrap's own modules come last.
    ours = sys.path[1:] + sys.path[:1]
    sys.path[:] = [code, DEPENDENCIES] + ours if os.path.isdir(DEPENDENCIES) else [code] + ours
    sys.argv = [code]
    for directory in sys.path[:-len(ours)]:
        _give_way(directory, instance.preloaded)
    _site()
    os.chdir(code)
    # Code and dependencies are read-only: what an import compiles could not be kept.
    sys.dont_write_bytecode = True
    # A directory: not to be tried as a zip archive first.
    sys.path_importer_cache[code] = sys.path_hooks[-1](code)
    target = _find(code, request.get("handler") or "main.handler")
    signature = request["signature"]
    if signature == "auto":
        signature = _detect(target)
    if signature not in ("event", "asgi", "wsgi"):
        raise Refused(
            "HandlerUnsupported", "Python does not serve the %s signature: use event, asgi or wsgi" % signature
        )
    theirs = sys.path[:]
    try:
        # A `queue.py` of the user's is not what the bootstrap means by `queue`.
        sys.path[:] = ours
        module = __import__("hearth_" + signature)
        if signature == "event" and is_async(target) or signature == "asgi":
            __import__("hearth_loop")
        sys.path[:] = theirs
        if signature == "event":
            return module.Handler(instance, target, is_async(target), request)
        return module.Handler(instance, target, request)
    except Refused:
        raise
    except Exception as error:
        raise _failed(error) from error


def _give_way(directory, preloaded):
    """A file of the user's goes before a module of the same name that a pooled instance was exercised with."""
    own = preloaded.intersection(entry.partition(".")[0] for entry in os.listdir(directory)) if preloaded else ()
    for name in [name for name in sys.modules if own and name.partition(".")[0] in own]:
        del sys.modules[name]


def _site():
    """What the interpreter was started without: `exit` and friends, and the path files of the dependencies."""
    import site

    site.setquit()
    if os.path.isdir(DEPENDENCIES) and any(name.endswith(".pth") for name in os.listdir(DEPENDENCIES)):
        site.addsitedir(DEPENDENCIES, set(sys.path))


def _find(code, handler):
    path, dot, name = handler.replace("/", ".").rpartition(".")
    if not dot or not path or not name:
        raise Refused("HandlerFileMissing", 'handler "%s" is not module.name, as in main.handler' % handler)
    import importlib

    importlib.invalidate_caches()
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is not None and (path == error.name or path.startswith(error.name + ".")):
            where = path.replace(".", "/")
            raise Refused(
                "HandlerFileMissing", 'there is no %s.py in the code: handler "%s" names it' % (where, handler)
            ) from error
        raise _failed(error) from error
    except BaseException as error:
        raise _failed(error) from error
    if not hasattr(module, name):
        there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")][:10]
        has = "it has " + ", ".join(there) if there else "it has nothing that can be called"
        raise Refused("HandlerMissing", '%s has no "%s": %s' % (path.replace(".", "/") + ".py", name, has))
    target = getattr(module, name)
    if not callable(target):
        kind = type(target).__name__
        raise Refused("HandlerMissing", '"%s" of %s is a %s, and cannot be called' % (name, path, kind))
    return target


def _failed(error):
    import traceback

    text = "".join(traceback.format_exception(error))
    return Refused("LoadFailed", "%s: %s" % (type(error).__name__, error), text)


def _code(target):
    """The code of a callable, and how many parameters of it are bound."""
    for _ in range(10):
        if hasattr(target, "__wrapped__"):
            target = target.__wrapped__
    if hasattr(target, "func") and hasattr(target, "keywords"):
        return _code(target.func)
    if hasattr(target, "__func__"):
        return getattr(target.__func__, "__code__", None), 1
    if hasattr(target, "__code__"):
        return target.__code__, 0
    call = getattr(type(target), "__call__", None)
    if isinstance(target, type):
        return None, 0
    return getattr(call, "__code__", None), 1


def is_async(target):
    code, _ = _code(target)
    return code is not None and code.co_flags & CO_COROUTINE != 0


def _detect(target):
    if hasattr(target, "wsgi_app"):
        return "wsgi"
    code, bound = _code(target)
    if code is None:
        return "event"
    names = [name.lstrip("_") for name in code.co_varnames[bound:code.co_argcount]]
    if names[:3] == ["scope", "receive", "send"]:
        return "asgi"
    if names[:2] == ["environ", "start_response"] or names[1:2] == ["start_response"]:
        return "wsgi"
    if len(names) == 3 and code.co_flags & CO_COROUTINE and bound:
        return "asgi"
    return "event"
