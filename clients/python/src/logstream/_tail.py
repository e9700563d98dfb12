"""A site's messages as they come, each once: the contract's way to have no gap,
with as much of RFC 6455 as a client of text messages needs."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import socket
import ssl
import struct
import time
from typing import Any, Callable, Dict, Iterator
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

from ._http import USER_AGENT, connect

# Of a connection's opening, and of a request.
_PATIENCE = 15.0
# A deployment closes a connection that has been idle for 10 minutes. After a
# longer silence it is broken.
_MAX_SILENCE = 660.0
_MAX_MESSAGE = 1 << 20

Message = Dict[str, Any]


class Refused(Exception):
    """The server's answer to a handshake or a request that is wrong."""


class _WebSocket:
    def __init__(self, url: SplitResult, context: ssl.SSLContext | None = None) -> None:
        is_secure = url.scheme == "wss"
        host = url.hostname or ""
        self._socket = socket.create_connection((host, url.port or (443 if is_secure else 80)), _PATIENCE)
        self._received = b""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if is_secure:
                context = context or ssl.create_default_context()
                self._socket = context.wrap_socket(self._socket, server_hostname=host)
            self._shake_hands(url)
            self._socket.settimeout(_MAX_SILENCE)
        except BaseException:
            self._socket.close()
            raise

    def _shake_hands(self, url: SplitResult) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {url.path or '/'}?{url.query} HTTP/1.1",
            f"Host: {url.netloc.rpartition('@')[2]}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"User-Agent: {USER_AGENT}",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        ]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self._received:
            self._receive()
            if len(self._received) > 65536:
                raise ConnectionError("the answer to the handshake is too long")
        head, self._received = self._received.split(b"\r\n\r\n", 1)
        status, *fields = head.decode("latin-1").split("\r\n")
        code = status.split(" ")[1] if " " in status else status
        if code.startswith("4") and code not in ("408", "425", "429"):
            raise Refused(f"the connection is refused with {code}")
        if code != "101":
            raise ConnectionError(f"the handshake is answered with {code}")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1((key + guid).encode()).digest()).decode()
        if headers.get("sec-websocket-accept") != accept:
            raise ConnectionError("the handshake's Sec-WebSocket-Accept is wrong")

    def _receive(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the connection was closed by the other side")
        self._received += data

    def _take(self, count: int) -> bytes:
        if count > _MAX_MESSAGE:
            raise ConnectionError("a frame is too large")
        while len(self._received) < count:
            self._receive()
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    def messages(self) -> Iterator[str]:
        """The text messages until the connection is closed; pings are answered."""
        text = b""
        while True:
            first, second = self._take(2)
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack("!H", self._take(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", self._take(8))
            payload = self._take(length)
            opcode = first & 0x0F
            if opcode in (0x0, 0x1):
                text += payload
                if first & 0x80:
                    yield text.decode("utf-8", "replace")
                    text = b""
                elif len(text) > _MAX_MESSAGE:
                    raise ConnectionError("a message is too large")
            elif opcode == 0x8:
                return
            elif opcode == 0x9:
                self._send(payload, 0xA)

    def _send(self, payload: bytes, opcode: int) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload[:125]))
        self._socket.sendall(struct.pack("!BB", 0x80 | opcode, 0x80 | len(masked)) + mask + masked)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._send(struct.pack("!H", 1000), 0x8)
        self._socket.close()


class Tail:
    """`messages` gives each message once, over all reconnections.

    `base` and `websocket` are the addresses of both APIs. `seconds` is how far
    back the first messages go.
    """

    def __init__(
        self, base: SplitResult, websocket: str, site: str, seconds: float, tell: Callable[[str], None]
    ) -> None:
        self._base = base
        parts = urlsplit(websocket)
        self._websocket = parts._replace(path=parts.path.rstrip("/"), query=urlencode({"site": site}))
        self._site = site
        self._began = time.time() - seconds
        self._tell = tell
        self._shown: set[str] = set()

    def messages(self) -> Iterator[Message]:
        """Ends never. Raises Refused if the server refuses the site or the path."""
        while True:
            socket_: _WebSocket | None = None
            try:
                # First open, then ask for what was before: no gap.
                socket_ = _WebSocket(self._websocket)
                yield from self._once(self._recent())
                for frame in socket_.messages():
                    yield from self._once([json.loads(frame)])
                self._tell("the connection was closed; reconnecting")
            except (OSError, http.client.HTTPException, ValueError, struct.error) as error:
                self._tell(f"{type(error).__name__}: {error}; reconnecting")
            finally:
                if socket_:
                    socket_.close()
            time.sleep(1 + random.random())

    def _once(self, messages: Any) -> Iterator[Message]:
        for message in messages:
            if not isinstance(message, dict):
                continue
            id_ = message.get("id")
            if id_ is not None:
                if id_ in self._shown:
                    continue
                self._shown.add(id_)
            yield message

    def _recent(self) -> Any:
        """The messages of the time that is shown, the last day at most, oldest first."""
        after = int(max(self._began, time.time() - 86400))
        # What is older is not asked for again; an hour for frames that come late.
        self._shown = {id_ for id_ in self._shown if float(id_) > after - 3600}
        base = f"{self._base.geturl()}/recent-logs"
        url = f"{base}?{urlencode({'site': self._site, 'after_time': after})}"
        messages = []
        while url:
            parts = urlsplit(url)
            connection, prefix, headers = connect(self._base, _PATIENCE, None)
            try:
                connection.request(
                    "GET", f"{prefix}{parts.path}?{parts.query}", headers={"User-Agent": USER_AGENT, **headers}
                )
                answer = connection.getresponse()
                body = answer.read()
                if 400 <= answer.status < 500 and answer.status not in (408, 425, 429):
                    raise Refused(
                        f"recent-logs is answered with {answer.status} {body[:300].decode('utf-8', 'replace')}"
                    )
                if answer.status != 200:
                    raise ConnectionError(f"recent-logs is answered with {answer.status}")
                link = re.search("<(.*)>", answer.getheader("Link") or "")
            finally:
                connection.close()
            messages += json.loads(body)
            url = urljoin(url, link.group(1)) if link else ""
        return reversed(messages)
