"""A handler for `logging`."""

from __future__ import annotations

import logging
from typing import Any

from ._client import Client, _is_site
from ._message import shown


class Handler(logging.Handler):
    """Sends what is logged, with the record's own time.

        logging.getLogger().addHandler(logstream.Handler("http://127.0.0.1:3000", "tst"))

    The options are those of `Client`, or a client that is there already, which
    is then not closed with the handler. Records of the logger `logstream`, in
    which the client itself says what is wrong, are left to other handlers.
    """

    is_logstream = True

    def __init__(
        self,
        url: str = "",
        site: str | None = None,
        level: int = logging.NOTSET,
        *,
        client: Client | None = None,
        **options: Any,
    ) -> None:
        super().__init__(level)
        # A record names no site.
        named = site if site is not None or client is None else client._site
        if not _is_site(named):
            raise ValueError(f"expected a site such as 'tst', not {shown(named)}")
        self._site = site
        self._owns_client = client is None
        self.client = client if client is not None else Client(url, site, **options)
        # A filter, because it comes before the handler's lock.
        self.addFilter(_is_others)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception as error:
            # Such as arguments that do not fit the text.
            text = f"{record.msg!r} (not formatted: {type(error).__name__}: {error}; arguments: {record.args!r})"
        self.client._send(text, record.levelno, self._site, record.created, is_exact=False)

    def handle(self, record: logging.LogRecord) -> bool:  # type: ignore[override, unused-ignore]
        try:
            return bool(super().handle(record))
        except Exception:
            # Such as a filter that fails, or arguments that cannot be shown.
            return False

    def flush(self) -> None:
        """Waits for nothing: `logging` and others call this in the middle of the
        program. `client.flush()` waits."""

    def close(self) -> None:
        """Sends what is left, for the client's `flush_timeout` at most."""
        if self._owns_client:
            self.client.close()
        super().close()


def _is_others(record: logging.LogRecord) -> bool:
    return record.name != "logstream" and not record.name.startswith("logstream.")
