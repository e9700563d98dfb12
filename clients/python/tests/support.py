"""What the tests share: a real server, a proxy before it that fails on a plan,
and waiting for conditions."""

from __future__ import annotations

import atexit
import contextlib
import http.client
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import uuid
from typing import Any, Callable, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from logstream import Client

BINARY = os.environ["LOGSTREAM_SERVER"]
# Far longer than anything takes; the machine may be busy.
PATIENCE = 60.0
T = TypeVar("T")

# Not to a proxy, whatever the environment says.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
os.environ.pop("LOGSTREAM_KEY", None)
os.environ.pop("LOGSTREAM_SPOOL", None)


def until(condition: Callable[[], T], describe: Callable[[], object] = lambda: "", seconds: float = PATIENCE) -> T:
    """Waits until the condition holds, and returns its result."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"in vain for {seconds} s: {describe()}")
        time.sleep(0.01)


def new_site() -> str:
    return f"test-{uuid.uuid4()}"


class Server:
    """The local server, with its data in a folder: it can be killed and started
    again on the same port."""

    def __init__(self, *arguments: str) -> None:
        self.folder = tempfile.mkdtemp(prefix="logstream-")
        self._arguments = arguments
        self.port = 0
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [BINARY, "--port", str(self.port), "--data-dir", self.folder, *self._arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line.startswith("listening on "), f"the server did not start: {line!r}"
        self.url = line.split()[2]
        self.port = urlsplit(self.url).port or 0

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    def history(self, site: str) -> list[dict[str, Any]]:
        """What is stored for the site, oldest first."""
        messages: list[dict[str, Any]] = []
        url: str | None = f"{self.url}/recent-logs?site={quote(site)}"
        while url:
            parts = urlsplit(url)
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
            connection.request("GET", f"{parts.path}?{parts.query}")
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
            messages += json.loads(body)
            link = answer.getheader("Link")
            url = urljoin(url, link[link.index("<") + 1 : link.index(">")]) if link else None
            connection.close()
        return messages[::-1]

    def texts(self, site: str) -> list[str]:
        return [message["message"] for message in self.history(site)]


def unless(gate: threading.Event) -> Callable[[int, dict[str, Any]], Any]:
    """A plan that answers 503 until the gate is open."""
    return lambda number, body: None if gate.is_set() else 503


class Proxy:
    """Forwards to a server, except for what its plan says about a request.

    The plan is called with the request's number, from 0, and its first message:

        None             forward it
        a number         answer with this status; with headers, if it is a pair
        "cut"            close the connection, without forwarding
        "lose"           forward it, and close the connection without an answer
        seconds (float)  wait before forwarding
    """

    def __init__(self, server: Server, plan: Callable[[int, dict[str, Any]], Any] = lambda number, body: None) -> None:
        self.plan = plan
        # Of each message its time and itself; of each connection and each request
        # nothing but the number.
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.headers: list[Any] = []
        self.connections = 0
        self.posts = 0
        # The texts that went on to the server.
        self.forwarded: list[str] = []
        self._busy = 0
        self.is_closing = threading.Event()
        self._lock = threading.Lock()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                with proxy._lock:
                    proxy.connections += 1
                super().setup()

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                with proxy._lock:
                    proxy._busy += 1
                try:
                    self.forward()
                finally:
                    with proxy._lock:
                        proxy._busy -= 1

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                message = json.loads(body)
                messages = message if isinstance(message, list) else [message]
                with proxy._lock:
                    number = proxy.posts
                    proxy.requests += messages
                    proxy.posts += 1
                    proxy.times += [time.monotonic()] * len(messages)
                    proxy.headers += [self.headers] * len(messages)
                what = proxy.plan(number, messages[0])
                if isinstance(what, float):
                    proxy.is_closing.wait(what)
                    what = None
                if what == "cut":
                    self.close_connection = True
                    return
                headers: dict[str, str] = {}
                if isinstance(what, tuple):
                    what, headers = what
                if isinstance(what, int):
                    status, answer = what, b'{"message": "as planned"}'
                else:
                    with proxy._lock:
                        proxy.forwarded += [message["log_message"] for message in messages]
                    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
                    try:
                        keep = {name: value for name, value in self.headers.items() if name != "Host"}
                        connection.request("POST", self.path, body, keep)
                        response = connection.getresponse()
                        status, answer = response.status, response.read()
                    except OSError:
                        self.close_connection = True
                        return
                    finally:
                        connection.close()
                if what == "lose":
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle()

        class Threads(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Threads(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.is_closing.set()
        self._server.shutdown()
        self._server.server_close()

    def is_idle(self) -> bool:
        with self._lock:
            return self._busy == 0

    def texts(self) -> list[str]:
        return [request["log_message"] for request in self.requests]


_shared: list[Server] = []


class Case(unittest.TestCase):
    """A test with a site of its own on a server that all tests share."""

    server: Server

    @classmethod
    def setUpClass(cls) -> None:
        if not _shared:
            _shared.append(Server())
            atexit.register(_shared[0].remove)
        cls.server = _shared[0]

    def setUp(self) -> None:
        self.site = new_site()
        self.folder = tempfile.mkdtemp(prefix="logstream-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def own_server(self, *arguments: str) -> Server:
        server = Server(*arguments)
        self.addCleanup(server.remove)
        return server

    def proxy(
        self, plan: Callable[[int, dict[str, Any]], Any] = lambda number, body: None, server: Server | None = None
    ) -> Proxy:
        proxy = Proxy(server or self.server, plan)
        self.addCleanup(proxy.close)
        return proxy

    def client(self, url: str, **options: Any) -> Client:
        options.setdefault("backoff", (0.01, 0.1))
        client = Client(url, options.pop("site", self.site), **options)
        self.addCleanup(client.close, 0.0)
        return client

    def flush(self, client: Client) -> None:
        self.assertTrue(client.flush(PATIENCE), client.stats)

    def script(self, text: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """A program of its own, with `url` and `site` and the arguments in `rest`."""
        head = "import sys, time, os, logging, logstream\nurl, site, *rest = sys.argv[1:]\n"
        process = subprocess.Popen(
            [sys.executable, "-c", head + text, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self.addCleanup(self._end, process)
        return process

    @staticmethod
    def _end(process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            process.kill()
        process.communicate()
