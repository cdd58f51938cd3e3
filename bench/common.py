"""What the benchmarks share: a Hearth of their own, baselines, percentiles, tables, verdicts. Standard library only."""

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
# What a bare process is started with: nothing of the shell's environment, which can cost an interpreter tens of milliseconds.
CLEAN = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


def binary():
    """The release binary, made when it is missing."""
    path = Path(os.environ.get("HEARTH", ROOT / "target/release/hearth"))
    if not path.exists():
        subprocess.run(["cargo", "build", "--release"], cwd=ROOT, check=True)
    return path.resolve()


def stopped(*_):
    sys.exit("stopped")


# Whoever stops it from outside, as `timeout` does, gets what Ctrl-C gets: what it started is ended, what it installed is removed.
signal.signal(signal.SIGTERM, stopped)

GIVEN = set()


def free_port():
    """A port that nobody listens on, another one each time: the kernel may give one again that was closed."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port not in GIVEN:
            GIVEN.add(port)
            return port


def need(*programs):
    missing = [program for program in programs if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")]
    if missing:
        packages = {"ab": "apache2-utils", "redis-cli": "redis-tools"}
        names = " ".join(packages.get(program, program) for program in missing)
        sys.exit(f"missing: {', '.join(missing)}; sudo apt-get install {names}")


class Hearth:
    """A `hearth serve` with a data directory and ports of its own, for a `with`."""

    def __init__(self, **options):
        self.data = tempfile.mkdtemp(prefix="hearth-bench-")
        self.host, self.port = "127.0.0.1", free_port()
        self.management = free_port()
        self.environment = {
            **os.environ,
            "HEARTH_DATA_DIR": self.data,
            "HEARTH_GATEWAY_LISTEN": f"{self.host}:{self.port}",
            "HEARTH_MANAGEMENT_LISTEN": f"{self.host}:{self.management}",
            "HEARTH_LOG_LEVEL": "warn",
            **options,
        }
        self.environment.pop("KUBECONFIG", None)
        self.url = f"http://{self.host}:{self.port}"

    def __enter__(self):
        self.log = open(f"{self.data}/controller.log", "w")
        self.process = subprocess.Popen(
            [binary(), "serve"], env=self.environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        try:
            wait_for(lambda: get("127.0.0.1", self.management, "/healthz")[0] == 200, "hearth serve to be healthy", self.process)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            print("hearth serve did not stop: killed", file=sys.stderr)
            self.process.kill()
        self.log.close()
        shutil.rmtree(self.data, ignore_errors=True)

    def cli(self, *arguments):
        done = subprocess.run([binary(), *arguments], env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"hearth {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def apply(self, *manifests, wait=True):
        """Applies manifests (dicts: JSON is YAML) and waits until their Functions are Ready."""
        path = Path(self.data) / "manifest.yaml"
        path.write_text("\n---\n".join(json.dumps(manifest) for manifest in manifests))
        self.cli("apply", "-f", str(path))
        for manifest in manifests if wait else []:
            name = manifest["metadata"]["name"]
            wait_for(lambda: self.ready(name), f"{name} to be Ready", self.process)

    def function(self, name):
        return json.loads(self.cli("get", "functions", name, "-o", "json"))

    def ready(self, name):
        status = self.function(name).get("status") or {}
        return any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))

    def tag(self):
        import hashlib

        return hashlib.sha256(os.path.realpath(self.data).encode()).hexdigest()[:8]

    def instance_processes(self):
        """Process numbers of everything in this server's containers."""
        found = set()
        listed = subprocess.run(
            ["find", "/sys/fs/cgroup", "-type", "d", "-path", f"*{self.tag()}*"], capture_output=True, text=True
        ).stdout.split()
        for group in listed:
            with contextlib.suppress(OSError):
                found |= set(map(int, Path(group, "cgroup.procs").read_text().split()))
        return found

    def at_zero(self, timeout=90):
        wait_for(lambda: not self.instance_processes(), "every instance to be gone", self.process, timeout)


def function(name, runtime, file, code=None, handler=None, path=None, **spec):
    """A manifest with inline source: `code` is the text of a file of bench/functions, by default `file` itself."""
    source = {file: (code if code is not None else (BENCH / "functions" / file).read_text())}
    manifest = {
        "apiVersion": "hearth.dev/v1",
        "kind": "Function",
        "metadata": {"name": name},
        "spec": {
            "runtime": runtime,
            "source": {"inline": source},
            "triggers": [{"http": {"path": path or f"/{name}"}}],
            **spec,
        },
    }
    if handler:
        manifest["spec"]["handler"] = handler
    return manifest


def get(host, port, target, timeout=90.0, headers=""):
    """One request over a connection of its own: (status, head, body). Reads to the end of the body."""
    with socket.create_connection((host, port), timeout) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(f"GET {target} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n{headers}\r\n".encode())
        data = b""
        while part := connection.recv(1 << 16):
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    head = head.decode("latin-1")
    return int(head.split(" ", 2)[1]), head, body


def first_byte(host, port, target, since, tries_until=None):
    """Milliseconds from `since` to the first byte of the answer, and the whole answer's text. Connects again and again until somebody listens
    when `tries_until` (a perf_counter time) is given."""
    while True:
        try:
            connection = socket.create_connection((host, port), 60)
            break
        except ConnectionRefusedError:
            if tries_until is None or time.perf_counter() > tries_until:
                raise
            time.sleep(0.0002)
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(f"GET {target} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n".encode())
        data = connection.recv(1 << 16)
        took = (time.perf_counter() - since) * 1000
        while part := connection.recv(1 << 16):
            data += part
    return took, data.decode("latin-1")


# Of a runtime: the file of the code, the function of bench/functions, its handler, the baseline.
RUNTIMES = {
    "nodejs": ("index.js", "hello.js", "index.handler", "event.js"),
    "python": ("main.py", "hello.py", "main.handler", "event.py"),
}


def bare(command, port):
    """Milliseconds from the start of the process to the first byte of its first answer."""
    since = time.perf_counter()
    process = subprocess.Popen([*command, str(port)], env=CLEAN, stdin=subprocess.DEVNULL)
    try:
        took, answer = first_byte("127.0.0.1", port, "/", since, since + 10)
    finally:
        process.kill()
        process.wait()
    assert "Hello, world!" in answer, answer
    return took


def rungs(hearth):
    """How many instances stand on each rung."""
    _, _, text = get("127.0.0.1", hearth.management, "/metrics")
    found = re.findall(r'^hearth_ladder_instances\{rung="(\w+)"\} (\d+)', text.decode(), re.M)
    return {name: int(count) for name, count in found}


def call(hearth, name):
    """Milliseconds to the first byte, and what the request met."""
    since = time.perf_counter()
    took, answer = first_byte(hearth.host, hearth.port, f"/{name}", since)
    return took, start_kind(answer)


def start_kind(answer):
    """Which kind of instance a request met, by its answer."""
    head = answer.split("\r\n\r\n")[0].lower()
    assert " 200 " in head.split("\r\n")[0] and "hello, world!" in answer.lower(), answer
    return re.search(r"x-hearth-start: (\w+)", head)[1]


def wait_for(ask, what, process=None, timeout=120):
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError, ValueError, IndexError):
            if ask():
                return
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"waiting for {what}: the process ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {timeout} s for {what}")
        time.sleep(0.05)


@contextlib.contextmanager
def running(command, port, environment=None):
    """A baseline's server, until the end of the `with`."""
    process = subprocess.Popen(command, env=environment or CLEAN, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: get("127.0.0.1", port, "/")[0] < 500, f"{command[0]} to answer", process)
        yield process
    finally:
        process.terminate()
        process.wait()


def interpreter(hearth, runtime):
    """The interpreter that an instance runs, so that the baseline runs the same."""
    if runtime == "nodejs":
        which = function("which-node", "nodejs", "index.js", "exports.handler = async () => process.execPath;\n", "index.handler")
    else:
        code = "import os\ndef handler(event, context):\n    return os.path.realpath('/proc/self/exe')\n"
        which = function("which-python", "python", "main.py", code, "main.handler")
    hearth.apply(which)
    name = which["metadata"]["name"]
    status, _, body = get(hearth.host, hearth.port, f"/{name}")
    hearth.cli("delete", "function", name)
    if status != 200:
        raise RuntimeError(f"{name}: {status} {body!r}")
    text = body.decode()
    return json.loads(text) if text.startswith('"') else text


def percentile(values, percent):
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def median(values):
    return percentile(values, 50)


def table(head, rows):
    rows = [[str(cell) for cell in row] for row in rows]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def machine():
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) // 1024**2
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(
        f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), {memory} GiB, Linux {platform.release()}, "
        f"load {os.getloadavg()[0]:.1f}, commit {commit}\n",
        flush=True,
    )


class Verdict:
    """Collects which bars were met; its `end` is the exit code."""

    def __init__(self, title):
        print(f"## {title}\n")
        machine()
        self.missed = 0

    def bar(self, what, met):
        self.missed += not met
        print(f"{'met   ' if met else 'MISSED'} {what}", flush=True)

    def end(self):
        print()
        sys.exit(1 if self.missed else 0)
