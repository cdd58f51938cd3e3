"""What throughput.py and latency.py measure: the same handlers by Hearth and without it, each warm."""

import contextlib
import tempfile
from pathlib import Path

from common import BENCH, free_port, function, get, interpreter, running

RESIDENT = {"scale": {"min": 1, "max": 1}, "concurrency": {"limit": 100}}


@contextlib.contextmanager
def contenders(hearth):
    """URLs by name, each of something that runs and has answered."""
    node = interpreter(hearth, "nodejs")
    functions = BENCH / "functions"
    sources = {name: (functions / name).read_text() for name in ("hello.js", "http.js", "server.js")}
    server = function("server", "http", "server.js", sources["server.js"], command=[node, "server.js"], **RESIDENT)
    server["spec"]["source"]["inline"]["http.js"] = sources["http.js"]
    hearth.apply(
        function("event", "nodejs", "index.js", sources["hello.js"], "index.handler", signature="event", **RESIDENT),
        function("http", "nodejs", "index.js", sources["http.js"], "index.handler", signature="http", **RESIDENT),
        server,
    )
    event, plain, proxied = free_port(), free_port(), free_port()
    with (
        running([node, str(BENCH / "baseline/event.js"), str(functions / "hello.js"), str(event)], event),
        running([node, str(functions / "server.js")], plain, {"PORT": str(plain)}),
        nginx(proxied, plain),
    ):
        urls = {
            "event, node:http": f"http://127.0.0.1:{event}/",
            "event, Hearth": f"{hearth.url}/event",
            "http, node:http": f"http://127.0.0.1:{plain}/",
            "http signature, Hearth": f"{hearth.url}/http",
            "http runtime, Hearth": f"{hearth.url}/server",
            "http, nginx in front": f"http://127.0.0.1:{proxied}/",
        }
        for name, url in urls.items():
            host, _, rest = url.removeprefix("http://").partition(":")
            port, _, path = rest.partition("/")
            status, _, body = get(host, int(port), f"/{path}")
            assert status == 200 and b"Hello, world!" in body, (name, status, body)
        yield urls


@contextlib.contextmanager
def nginx(port, upstream):
    """nginx as a plain proxy, with kept connections and no log."""
    with tempfile.TemporaryDirectory() as home:
        config = Path(home) / "nginx.conf"
        config.write_text(f"""
            daemon off; worker_processes 1; pid {home}/pid; error_log stderr error;
            events {{ worker_connections 1024; }}
            http {{
              access_log off; client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
              uwsgi_temp_path {home}/u; scgi_temp_path {home}/s; keepalive_requests 100000000;
              upstream node {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 100000000; }}
              server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://node; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
            }}""")
        with running(["/usr/sbin/nginx", "-c", str(config)], port):
            yield
