#!/usr/bin/env python3
"""Tries a runtime image as a Pod would have it: no root, no capabilities, a read-only root. Plays the controller: orders, files, one call, the end.

    runtime-shim/tests/image.py IMAGE nodejs|python INTERPRETER

The image and the interpreter are what `.ci/runtime-images` prints. Needs Docker, and its bridge for the way back.
"""

import hashlib
import io
import ipaddress
import json
import os
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import time

CODE = {
    "nodejs": ("index.js", "index.handler", "exports.handler = async (event) => ({ n: event.n + 1, uid: process.getuid() });"),
    "python": ("index.py", "index.handler", "import os\ndef handler(event, context): return {'n': event['n'] + 1, 'uid': os.getuid()}\n"),
}
HELLO, WELCOME, LOAD, LOADED, INVOKE, ANSWER, EXIT = 1, 2, 3, 4, 5, 9, 20
END = 1


def exactly(sock, count):
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise SystemExit("the shim has closed the connection")
        data += piece
    return data


def say(sock, message):
    body = json.dumps(message).encode()
    sock.sendall(struct.pack(">I", len(body)) + body)


def hear(sock):
    return json.loads(exactly(sock, struct.unpack(">I", exactly(sock, 4))[0]))


def frame(sock, kind, body, stream=0, flags=0):
    sock.sendall(struct.pack(">IBBI", len(body), kind, flags, stream) + body)


def until(sock, wanted):
    while True:
        length, kind, _, _ = struct.unpack(">IBBI", exactly(sock, 10))
        body = exactly(sock, length)
        if kind == wanted:
            return body


def greeted(address, secret, role):
    sock = socket.create_connection(address, 10)
    sock.settimeout(30)
    hello = {"minVersion": 1, "maxVersion": 1, "secret": secret, "role": role}
    frame(sock, HELLO, json.dumps(hello).encode())
    until(sock, WELCOME)
    return sock


def main():
    image, language, interpreter = sys.argv[1:]
    name, handler, code = CODE[language]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(code)
        tar.addfile(entry, io.BytesIO(code.encode()))
    packed = packed.getvalue()
    digest = "sha256:" + hashlib.sha256(packed).hexdigest()
    bridge = ["docker", "network", "inspect", "bridge", "--format", "{{json (index .IPAM.Config 0)}}"]
    network = json.loads(subprocess.run(bridge, check=True, capture_output=True).stdout)
    # Where nobody has chosen another, the host has the first address.
    gateway = network.get("Gateway") or str(next(ipaddress.ip_network(network["Subnet"]).hosts()))
    listener = socket.create_server((gateway, 0))
    listener.settimeout(30)
    command = ["docker", "run", "--detach", "--read-only", "--user", "65532:65532", "--cap-drop", "ALL"]
    command += ["--security-opt", "no-new-privileges", "--memory", "256m", "--entrypoint", "/hearth/hearth-shim"]
    empty = tempfile.mkdtemp()
    os.chmod(empty, 0o755)
    for at in "/tmp", "/run/hearth", "/code", "/deps":
        # As the kubelet makes an emptyDir: root's, and everybody's to write.
        directory = os.path.join(empty, os.path.basename(at))
        os.mkdir(directory)
        os.chmod(directory, 0o777)
        command += ["--volume", f"{directory}:{at}"]
    environment = {"HEARTH_REPORT": f"{gateway}:{listener.getsockname()[1]}", "HEARTH_INSTANCE": "i", "HEARTH_TOKEN": "t"}
    for pair in environment.items():
        command += ["--env", "=".join(pair)]
    begin = time.monotonic()
    container = subprocess.run([*command, image], check=True, capture_output=True, text=True).stdout.strip()
    try:
        report, (host, _) = listener.accept()
        hello = hear(report)
        reported = time.monotonic()
        secret = secrets.token_hex(32)
        config = {"instance": "i", "secret": secret, "env": {}, "concurrency": 1, "memoryBytes": 256 << 20}
        config["process"] = {"kind": language, "interpreter": interpreter}
        mount = {"digest": digest, "bytes": len(packed), "at": "/code"}
        say(report, {"kind": "start", "config": config, "mounts": [mount]})
        fetch, _ = listener.accept()
        assert hear(fetch)["purpose"] == {"for": "fetch", "digest": digest}
        say(fetch, {"kind": "blob", "bytes": len(packed)})
        fetch.sendall(packed)
        mounted = hear(report)
        assert mounted == {"kind": "mounted", "number": 0}, mounted
        unpacked = time.monotonic()
        control = greeted((host, hello["purpose"]["control"]), secret, "control")
        call = greeted((host, hello["purpose"]["invoke"]), secret, "invoke")
        load = {"code": "/code", "handler": handler, "signature": "auto", "function": "f", "namespace": "n", "revision": "f-1"}
        frame(call, LOAD, json.dumps(load | {"concurrency": 1, "memoryBytes": 256 << 20}).encode())
        loaded = json.loads(until(call, LOADED))
        assert loaded == {"result": "ok", "signature": "event"}, loaded
        event = json.dumps({"n": 1}).encode()
        head = struct.pack(">IB", 0, 1) + b"r" + struct.pack(">I", len(event)) + event
        frame(call, INVOKE, head, stream=1, flags=END)
        answer = until(call, ANSWER)
        answered = time.monotonic()
        body = json.loads(answer[6 + struct.unpack(">I", answer[2:6])[0]:])
        assert body == {"n": 2, "uid": 65532}, body
        inside = subprocess.run(["docker", "top", container, "-eo", "pid,rss,comm"], check=True, capture_output=True, text=True).stdout
        subprocess.run(["docker", "kill", "--signal", "TERM", container], check=True, capture_output=True)
        until(control, EXIT)
        control.close()
        ended = hear(report)
        assert ended["kind"] == "ended", ended
        report.close()
        subprocess.run(["docker", "wait", container], check=True, capture_output=True, timeout=30)
    except BaseException:
        subprocess.run(["docker", "logs", container], check=False, stdout=sys.stderr)
        raise
    finally:
        subprocess.run(["docker", "rm", "--force", container], check=False, capture_output=True)
        shutil.rmtree(empty, ignore_errors=True)
    resident = next(line.split()[1] for line in inside.splitlines() if line.endswith("hearth-shim"))
    steps = [("reported", begin, reported), ("unpacked", reported, unpacked), ("answered", unpacked, answered)]
    times = ", ".join(f"{what} after {(after - before) * 1000:.0f} ms" for what, before, after in steps)
    print(f"{image}: {times}; the shim has {resident} kB; ended: {ended['exit']}")


main()
