# Any server that listens on $PORT. It sees the whole path of the request.
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.hello("world")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.hello(body.decode(errors="replace").strip() or "world")

    def hello(self, name):
        body = f"Hello, {name}!\n".encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
