"""The handler behind the least of an HTTP server, on a plain socket: python3 event.py FILE PORT

What a bare Python needs to start, load the file and answer: http.server alone would add 30 ms of imports.
"""

import socket
import sys

scope = {}
with open(sys.argv[1]) as file:
    exec(compile(file.read(), sys.argv[1], "exec"), scope)

listener = socket.create_server(("127.0.0.1", int(sys.argv[2])))
while True:
    connection, _ = listener.accept()
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(65536)
        if not part:
            break
        head += part
    else:
        import json

        body = json.dumps(scope["handler"]({"headers": {}}, None)).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    connection.close()
