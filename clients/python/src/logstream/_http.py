"""Posting over one connection that is kept open."""

from __future__ import annotations

import base64
import email.utils
import http.client
import json
import os
import ssl
import sys
import time
import urllib.request
from typing import Any, Callable, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

USER_AGENT = "logstream-python/0.1.0"
_bypass_environment: Callable[[str], Any] = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]
# API Gateway, load balancers and firewalls forget an idle connection after a
# minute or more, and not all of them say so.
_MAX_IDLE = 30.0
# As much of an answer as is read.
_MAX_ANSWER = 65536


class Answer(NamedTuple):
    status: int
    # What the server says is wrong.
    text: str
    # Seconds after which to send again, if the server says so.
    retry_after: float | None


def base_url(url: str) -> SplitResult:
    """The deployment's address, of which `/newlog` may be a part. Raises
    ValueError if it is none."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"expected an address such as http://127.0.0.1:3000, not {url!r}")
    parts.hostname.encode("idna")  # raises UnicodeError, which is a ValueError
    _ = parts.port  # raises ValueError
    path = parts.path.rstrip("/")
    if path.endswith("/newlog"):
        path = path[: -len("/newlog")]
    if not (path.isascii() and path.isprintable()) or " " in path:
        raise ValueError(f"the path of {url!r} must be percent-encoded")
    return parts._replace(path=path, query="", fragment="")


def proxy_for(url: SplitResult) -> SplitResult | None:
    """The proxy that the environment names for this address, as for `requests`."""
    # The settings of macOS cannot be read in a forked process: it would be killed.
    environment_only = sys.platform == "darwin"
    proxies = urllib.request.getproxies_environment() if environment_only else urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy:
        return None
    host = url.hostname or ""
    bypass = _bypass_environment(host) if environment_only else urllib.request.proxy_bypass(host)
    if bypass:
        return None
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    # Others, such as SOCKS, are not for the standard library.
    return parts if parts.scheme == "http" and parts.hostname else None


def connect(
    url: SplitResult, timeout: float, context: ssl.SSLContext | None
) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """A connection to be opened with the first request, what comes before the
    path in its requests, and headers for a proxy."""
    host = url.hostname or ""
    proxy = proxy_for(url)
    headers = {}
    if proxy and proxy.username is not None:
        credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        headers["Proxy-Authorization"] = "Basic " + base64.b64encode(credentials.encode("utf-8")).decode()
    proxy_host, proxy_port = (proxy.hostname or "", proxy.port or 80) if proxy else ("", 0)
    if url.scheme == "https":
        if context is None:
            # As `requests` does; else the certificates of the system.
            context = ssl.create_default_context(cafile=os.environ.get("REQUESTS_CA_BUNDLE") or None)
        if not proxy:
            return http.client.HTTPSConnection(host, url.port, timeout=timeout, context=context), "", {}
        tunnel = http.client.HTTPSConnection(proxy_host, proxy_port, timeout=timeout, context=context)
        tunnel.set_tunnel(host, url.port or 443, headers)
        return tunnel, "", {}
    if not proxy:
        return http.client.HTTPConnection(host, url.port, timeout=timeout), "", {}
    return http.client.HTTPConnection(proxy_host, proxy_port, timeout=timeout), f"http://{url.netloc}", headers


class Poster:
    """Posts one message after the other. For one thread."""

    def __init__(self, url: SplitResult, key: str | None, context: ssl.SSLContext | None) -> None:
        self._url = url
        self._context = context
        self._connection: http.client.HTTPConnection | None = None
        self._used = 0.0
        self._prefix = ""
        self._headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._proxy_headers: dict[str, str] = {}

    def post(self, body: bytes, timeout: float) -> Answer:
        """Raises OSError or HTTPException if there is no answer."""
        if self._connection and time.monotonic() - self._used > _MAX_IDLE:
            self.close()
        reused = self._connection is not None
        try:
            return self._post(body, timeout)
        except ConnectionError:
            # The server has closed the idle connection: nothing is wrong.
            if not reused:
                raise
            return self._post(body, timeout)

    def _post(self, body: bytes, timeout: float) -> Answer:
        try:
            if self._connection is None:
                self._connection, self._prefix, self._proxy_headers = connect(self._url, timeout, self._context)
            connection = self._connection
            connection.timeout = timeout
            if connection.sock:
                connection.sock.settimeout(timeout)
            path = f"{self._prefix}{self._url.path}/newlog"
            connection.request("POST", path, body, {**self._headers, **self._proxy_headers})
            response = connection.getresponse()
            text = response.read(_MAX_ANSWER)
            if response.will_close or not response.isclosed():
                self.close()
            self._used = time.monotonic()
            return Answer(response.status, _reason(text), _retry_after(response.getheader("Retry-After")))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None


def _reason(body: bytes) -> str:
    text = body[:1000].decode("utf-8", "replace")
    try:
        message = json.loads(text)["message"]
    except (ValueError, TypeError, KeyError, RecursionError):
        message = text
    return str(message).strip()[:300]


def _retry_after(value: str | None) -> float | None:
    """The header is a number of seconds or a date."""
    if not value:
        return None
    try:
        return max(0.0, min(float(value), 3600.0))
    except ValueError:
        pass
    try:
        date = email.utils.parsedate_to_datetime(value)
        return max(0.0, min(date.timestamp() - time.time(), 3600.0))
    except (TypeError, ValueError, OverflowError):
        return None
