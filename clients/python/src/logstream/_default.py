"""The functions of the module, each with a client that the process shares."""

from __future__ import annotations

import json as json_module
import os
import threading
from typing import Any, Mapping

from ._client import Client, Stats, _report

_lock = threading.RLock()
_default: Client | None = None
# Those of `post`, by address and key.
_by_url: dict[tuple[str, str | None], Client] = {}
_told = False


def configure(url: str, site: str | None = None, **options: Any) -> Client:
    """Says where `send` sends to. The options are those of `Client`.

    Called again, it replaces the client, which first sends what it has.
    """
    global _default
    client = Client(url, site, **options)
    with _lock:
        before, _default = _default, client
    if before:
        before.close()
    return client


def send(text: object, level: object = "info", site: str | None = None, timestamp: object = None) -> bool:
    """Queues a message, as `Client.send` does. False if it was dropped."""
    client = _default
    if client is None:
        _tell_once("call logstream.configure(url, site) before logstream.send(…)")
        return False
    return client.send(text, level, site, timestamp)


def flush(timeout: float | None = None) -> bool:
    """`Client.flush` of the client of `configure` and of those of `post`."""
    return all(client.flush(timeout) for client in _all())


def stats() -> dict[str, Stats]:
    """The numbers of the client of `configure` and of those of `post`, by address."""
    return {client._url.geturl(): client.stats for client in _all()}


def _all() -> tuple[Client, ...]:
    with _lock:
        clients = tuple(_by_url.values())
        return clients if _default is None else (_default, *clients)


class Queued:
    """What `post` returns in the place of an answer, which is not waited for."""

    def __init__(self, ok: bool) -> None:
        self.ok = ok
        # Accepted, or nothing that HTTP has a number for: dropped here.
        self.status_code = 202 if ok else 507
        self.reason = self.text = "Queued." if ok else "Dropped."
        self.content = self.text.encode()

    def __bool__(self) -> bool:
        return self.ok

    def raise_for_status(self) -> None:
        """Raises nothing."""


def post(
    url: str,
    data: None | str | bytes | Mapping[str, Any] = None,
    json: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
    **_: Any,
) -> Queued:
    """Takes the arguments of `requests.post` to `/newlog`, and queues the message.

    LOGSTREAM_SPOOL names a folder for the spool, LOGSTREAM_KEY has the key,
    unless the headers have one.
    """
    try:
        fields = json if data is None else data
        if isinstance(fields, (str, bytes)):
            fields = json_module.loads(fields)
        fields = dict(fields)
        text = fields.get("log_message")
        client = _client_for(str(url), _key(headers))
        ok = client.send(
            "" if text is None else text, fields.get("log_level") or "info", fields.get("site"), fields.get("timestamp")
        )
        return Queued(ok)
    except Exception as error:
        _tell_once(f"a message could not be queued: {type(error).__name__}: {error}")
        return Queued(False)


def _key(headers: Mapping[str, str] | None) -> str | None:
    for name, value in (headers or {}).items():
        if name.lower() == "authorization" and value.lower().startswith("bearer "):
            return value[len("bearer ") :]
    return None


def _client_for(url: str, key: str | None) -> Client:
    with _lock:
        client = _by_url.get((url, key))
        if client is None:
            client = _by_url[url, key] = Client(url, key=key, spool=os.environ.get("LOGSTREAM_SPOOL") or None)
        return client


def _tell_once(line: str) -> None:
    global _told
    if not _told:
        _told = True
        _report(line)


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    # Another thread of the parent may have held it.
    os.register_at_fork(after_in_child=_renew_lock)
