#!/usr/bin/env python3
"""Checks a deployment from outside, in a few seconds.

    tests/smoke https://abc.execute-api.us-east-1.amazonaws.com wss://def.execute-api.us-east-1.amazonaws.com/dev

Prints pass or FAIL for each check and exits with 0 or 1. It sends one message
to a site of its own, which nobody watches and which expires with its message.
Where the deployment has publishers' keys, the variable LOGSTREAM_KEY must hold
one for all sites. Needs Python 3.8 or newer and nothing else.
"""

import argparse
import base64
import hashlib
import http.client
import json
import os
import socket
import ssl
import struct
import sys
import time
from urllib.parse import quote, urlsplit

# The longest wait for any one thing; the first call of a function is slow.
PATIENCE = 10


class Failure(Exception):
    """What a check found wrong."""


def expect(holds, what):
    if not holds:
        raise Failure(what)


def request(base, method, path, body=None, headers=None):
    """One HTTP request; returns status, headers and body."""
    url = urlsplit(base)
    secure = url.scheme == "https"
    connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(
        url.hostname, url.port, timeout=PATIENCE
    )
    try:
        connection.request(method, url.path.rstrip("/") + path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode("utf-8")
    finally:
        connection.close()


class Refused(Exception):
    """The answer to a handshake was not 101."""

    def __init__(self, status):
        super().__init__(f"the handshake was answered with {status}")
        self.status = status


class WebSocket:
    """As much of RFC 6455 as a client of text messages needs."""

    def __init__(self, base, query=""):
        url = urlsplit(base)
        secure = url.scheme == "wss"
        self.socket = socket.create_connection(
            (url.hostname, url.port or (443 if secure else 80)), timeout=PATIENCE
        )
        self.received = b""
        try:
            if secure:
                context = ssl.create_default_context()
                self.socket = context.wrap_socket(self.socket, server_hostname=url.hostname)
            self.handshake(url, query)
        except BaseException:
            self.socket.close()
            raise

    def handshake(self, url, query):
        key = base64.b64encode(os.urandom(16)).decode()
        path = (url.path or "/") + (f"?{query}" if query else "")
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {url.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        ]
        self.socket.sendall("\r\n".join(lines + ["", ""]).encode())
        deadline = time.monotonic() + PATIENCE
        while b"\r\n\r\n" not in self.received:
            self.receive(deadline)
        head, self.received = self.received.split(b"\r\n\r\n", 1)
        status, *fields = head.decode("latin-1").split("\r\n")
        status = int(status.split(" ")[1])
        if status != 101:
            raise Refused(status)
        fields = dict(field.split(":", 1) for field in fields)
        accept = {name.lower(): value.strip() for name, value in fields.items()}.get("sec-websocket-accept")
        guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        expected = base64.b64encode(hashlib.sha1((key + guid).encode()).digest()).decode()
        expect(accept == expected, "the handshake's Sec-WebSocket-Accept is wrong")

    def receive(self, deadline):
        left = deadline - time.monotonic()
        expect(left > 0, f"nothing came within {PATIENCE} s")
        self.socket.settimeout(left)
        try:
            data = self.socket.recv(65536)
        except socket.timeout:
            raise Failure(f"nothing came within {PATIENCE} s") from None
        expect(data, "the connection was closed by the other side")
        self.received += data

    def take(self, count, deadline):
        while len(self.received) < count:
            self.receive(deadline)
        taken, self.received = self.received[:count], self.received[count:]
        return taken

    def message(self, deadline):
        """The next text message; pings are answered."""
        text = b""
        while True:
            first, second = self.take(2, deadline)
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack("!H", self.take(2, deadline))
            elif length == 127:
                (length,) = struct.unpack("!Q", self.take(8, deadline))
            payload = self.take(length, deadline)
            opcode = first & 0x0F
            if opcode in (0x0, 0x1):
                text += payload
                if first & 0x80:
                    return text.decode("utf-8")
            elif opcode == 0x8:
                code = struct.unpack("!H", payload[:2])[0] if payload else "none"
                raise Failure(f"the other side closed the connection, code {code}")
            elif opcode == 0x9:
                self.send(payload, 0xA)

    def send(self, payload, opcode=0x1):
        mask = os.urandom(4)
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | length)
        else:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, length)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self.socket.sendall(head + mask + masked)

    def close(self):
        try:
            self.send(struct.pack("!H", 1000), 0x8)
            self.socket.settimeout(1)
            while self.socket.recv(65536):
                pass
        except OSError:
            pass
        self.socket.close()


class Smoke:
    """The checks, in the order in which each needs those before it."""

    def __init__(self, http_url, websocket_url, origin=None, key=None, site=None):
        self.http, self.websocket, self.origin = http_url, websocket_url, origin
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.site = site or "smoke-" + os.urandom(6).hex()
        self.text = f"Test message {os.urandom(6).hex()}"
        self.viewer = None
        self.sent = None
        # From sending the message to its frame.
        self.seconds = None
        self.frame = None

    def checks(self):
        return [
            ("a handshake without a site is refused", self.refusal),
            ("a viewer connects", self.connect),
            ("onlineusers lists it", self.online),
            ("a message is taken", self.newlog),
            ("the viewer gets it", self.broadcast),
            ("recent-logs has it with the same id", self.recent),
            ("a message without a text is a 400 that says so", self.bad_message),
            ("pages of other origins may call the API", self.cors),
            ("an unknown action is answered with an error frame", self.error_frame),
            ("the viewer can watch another site too", self.subscribe),
            ("after the disconnect onlineusers is empty", self.disconnect),
        ]

    def run(self):
        started = time.monotonic()
        checks = self.checks()
        failures = 0
        for name, check in checks:
            before = time.monotonic()
            try:
                note = check()
            except Exception as error:  # also of an answer of another shape
                failures += 1
                kind = "" if isinstance(error, (Failure, Refused)) else f"{type(error).__name__}: "
                print(f"FAIL  {name}: {kind}{error}", flush=True)
            else:
                took = f"{(time.monotonic() - before) * 1000:.0f} ms"
                print(f"pass  {name} ({note or took})", flush=True)
        if self.viewer:
            self.viewer.close()
        took = f"{time.monotonic() - started:.1f} s"
        if failures:
            print(f"smoke test FAILED: {failures} of {len(checks)} checks, {took}")
        else:
            print(f"smoke test passed: {len(checks)} checks, {took}")
        return 1 if failures else 0

    def refusal(self):
        try:
            WebSocket(self.websocket).close()
        except Refused as refused:
            expect(400 <= refused.status < 500, str(refused))
        else:
            raise Failure("it was let in")

    def connect(self):
        self.viewer = WebSocket(self.websocket, f"site={quote(self.site)}")

    def open_viewer(self):
        expect(self.viewer, "there is no viewer")
        return self.viewer

    def users(self):
        status, _, body = request(self.http, "GET", f"/onlineusers?site={quote(self.site)}")
        expect(status == 200, f"the answer is {status}: {body[:200]}")
        return json.loads(body)

    def online(self):
        self.open_viewer()
        users = self.users()
        listed = len(users) == 1 and list(users[0]) == ["ConnectionID"]
        expect(listed, f"one connection was expected, not {users}")

    def newlog(self):
        self.sent = time.time()
        message = {
            "site": self.site,
            "log_message": self.text,
            "log_level": "INFO",
            "timestamp": self.sent,
        }
        # Without a Content-Type, as scripts send it.
        status, _, body = request(self.http, "POST", "/newlog", json.dumps(message), self.headers)
        expect(status == 200, f"the answer is {status}: {body[:200]}")

    def broadcast(self):
        viewer = self.open_viewer()
        expect(self.sent, "no message was sent")
        deadline = time.monotonic() + PATIENCE
        frame = {}
        # Others may send to a site that is known.
        while frame.get("message") != self.text:
            frame = json.loads(viewer.message(deadline))
        self.seconds = time.time() - self.sent
        expected = {
            "site": self.site,
            "message": self.text,
            "log_level": "info",
            "timestamp": str(int(self.sent)),
            "id": frame.get("id"),
        }
        expect(frame == expected and frame["id"], f"the frame is {frame}")
        self.frame = frame
        return f"{self.seconds * 1000:.0f} ms after it was sent"

    def recent(self):
        status, _, body = request(self.http, "GET", f"/recent-logs?site={quote(self.site)}")
        expect(status == 200, f"the answer is {status}: {body[:200]}")
        messages = json.loads(body)
        expect(len(messages) == 1, f"one message was expected, not {messages}")
        expect(messages[0].get("message") == self.text, f"the message is {messages[0]}")
        expect(self.frame, "there is no frame to compare it with")
        expect(messages[0].get("id") == self.frame["id"], f"the id is {messages[0].get('id')}, the frame's is {self.frame['id']}")
        expect(messages[0].get("timestamp") == float(self.frame["id"]), f"the timestamp is {messages[0].get('timestamp')}")

    def bad_message(self):
        status, _, body = request(self.http, "POST", "/newlog", json.dumps({"site": self.site}), self.headers)
        expect(status == 400, f"the answer is {status}: {body[:200]}")
        expect("log_message" in json.loads(body)["message"], f"the body is {body[:200]}")

    def cors(self):
        path = f"/recent-logs?site={quote(self.site)}"
        headers = {"Origin": self.origin}
        _, answer, _ = request(self.http, "GET", path, None, headers)
        self.expect_allowed(answer, "the answer")
        exposed = answer.get("Access-Control-Expose-Headers", "").lower()
        expect("link" in exposed, f"the answer exposes {exposed or 'no headers'}; expected link")
        headers["Access-Control-Request-Method"] = "POST"
        headers["Access-Control-Request-Headers"] = "content-type"
        status, answer, _ = request(self.http, "OPTIONS", "/newlog", None, headers)
        expect(status in (200, 204), f"the preflight is answered with {status}")
        self.expect_allowed(answer, "the preflight's answer")

    def expect_allowed(self, headers, what):
        allowed = headers.get("Access-Control-Allow-Origin")
        expect(
            allowed in ("*", self.origin),
            f"{what} allows {allowed or 'no origin'}; --origin names one that is allowed",
        )

    def error_frame(self):
        viewer = self.open_viewer()
        viewer.send(json.dumps({"action": "smoke", "site": self.site}).encode())
        frame = json.loads(viewer.message(time.monotonic() + PATIENCE))
        is_error = frame.get("log_level") == "error" and "id" not in frame
        expect(is_error and frame.get("message") == "Unrecognized WebSocket action.", f"the frame is {frame}")

    def subscribe(self):
        viewer = self.open_viewer()
        sites = [self.site, f"{self.site}-2"]
        viewer.send(json.dumps({"action": "subscribe", "site": sites}).encode())
        deadline = time.monotonic() + PATIENCE
        frame = {"id": True}
        # Others may send to a site that is known.
        while "id" in frame:
            frame = json.loads(viewer.message(deadline))
        expect(frame == {"action": "subscribed", "site": sites, "level": "debug"}, f"the answer is {frame}")

    def disconnect(self):
        self.open_viewer().close()
        self.viewer = None
        deadline = time.monotonic() + PATIENCE
        while True:
            users = self.users()
            if not users:
                return
            expect(time.monotonic() < deadline, f"after {PATIENCE} s it still lists {users}")
            time.sleep(0.2)


def url(*schemes):
    def check(text):
        parts = urlsplit(text)
        if parts.scheme not in schemes or not parts.hostname:
            raise argparse.ArgumentTypeError(f"expected an address with {' or '.join(schemes)}, not {text!r}")
        return text

    return check


def main():
    parser = argparse.ArgumentParser(description="Checks a deployment from outside, in a few seconds.")
    parser.add_argument("http_url", type=url("http", "https"), help="output HttpUrl of the stack")
    parser.add_argument("websocket_url", type=url("ws", "wss"), help="output WebSocketUrl of the stack")
    parser.add_argument(
        "--origin",
        default="https://smoke.example",
        help="an origin that AllowedOrigins allows (only if it is not *)",
    )
    arguments = parser.parse_args()
    # Not an argument, which every process on the machine could read.
    key = os.environ.get("LOGSTREAM_KEY")
    return Smoke(arguments.http_url, arguments.websocket_url, arguments.origin, key).run()


if __name__ == "__main__":
    sys.exit(main())
