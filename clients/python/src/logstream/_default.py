"""The functions of the module, each with a client that the process shares."""

from __future__ import annotations

import json as json_module
import os
import threading
from typing import Any, Mapping
from urllib.parse import parse_qsl

from ._client import INVALID, Client, Stats, _report
from ._message import shown

_lock = threading.RLock()
_default: Client | None = None
# Those of `post`, by address and key.
_by_url: dict[tuple[str, str | None], Client] = {}
_told: set[str] = set()


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
    """The numbers of the client of `configure` and of those of `post`, together for
    each address."""
    numbers: dict[str, Stats] = {}
    for client in _all():
        url = client._url.geturl()
        numbers[url] = _sum(numbers[url], client.stats) if url in numbers else client.stats
    return numbers


def _sum(one: Stats, other: Stats) -> Stats:
    return Stats(
        queued=one.queued + other.queued,
        sent=one.sent + other.sent,
        retried=one.retried + other.retried,
        recovered=one.recovered + other.recovered,
        dropped={
            reason: one.dropped.get(reason, 0) + other.dropped.get(reason, 0)
            for reason in {**one.dropped, **other.dropped}
        },
        not_spooled=one.not_spooled + other.not_spooled,
        last_error=one.last_error or other.last_error,
    )


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

    def json(self) -> dict[str, str]:
        return {"message": self.text}

    def raise_for_status(self) -> None:
        """Raises nothing."""


def post(
    url: str,
    data: Any = None,
    json: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
    **_: Any,
) -> Queued:
    """Takes the arguments of `requests.post` to `/newlog`, and queues the message, or
    each one of an array. The answer is `ok` if none was dropped.

    LOGSTREAM_SPOOL names a folder for the spool, LOGSTREAM_KEY has the key,
    unless the headers have one.
    """
    try:
        client = _client_for(str(url), _key(headers))
        queued = [_queue(client, message) for message in _messages(json if data is None else data)]
        return Queued(all(queued))
    except Exception as error:
        _tell_once(f"a message could not be queued: {type(error).__name__}: {error}")
        return Queued(False)


def _messages(body: Any) -> list[Any]:
    """What a body holds: JSON, as text or as it is, or a form, as `requests` takes it."""
    given = body
    if isinstance(body, (str, bytes)):
        try:
            body = json_module.loads(body)
        except ValueError:
            text = body if isinstance(body, str) else body.decode("utf-8", "replace")
            is_form = "=" in text and not text.lstrip().startswith(("{", "["))
            body = parse_qsl(text, keep_blank_values=True) if is_form else None
    if isinstance(body, Mapping):
        return [body]
    if isinstance(body, (list, tuple)) and body:
        # A form may be a list of pairs.
        return [dict(body)] if all(isinstance(each, tuple) and len(each) == 2 for each in body) else list(body)
    # As one message, which is dropped.
    return [given]


def _queue(client: Client, message: Any) -> bool:
    if not isinstance(message, Mapping):
        told = f"not a JSON object or a form with 'site' and 'log_message': {shown(message)}"
        return client._drop(INVALID, told, key="no message")
    text = message.get("log_message")
    if text is None:
        # The server refuses it too.
        fields = shown(", ".join(map(str, message)))
        return client._drop(INVALID, f"a message has no 'log_message', only {fields}", key="no text")
    return client.send(text, message.get("log_level") or "info", message.get("site"), message.get("timestamp"))


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
    if line not in _told and len(_told) < 100:
        _told.add(line)
        _report(line)


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    # Another thread of the parent may have held it.
    os.register_at_fork(after_in_child=_renew_lock)
