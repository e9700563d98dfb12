"""Sends an observatory's messages to logstream.

It never raises into the program that sends, and never waits for the network: a
thread of its own posts what `send` has queued, in order, and tries again until
the message is stored.

    import logstream

    logstream.configure("http://127.0.0.1:3000", "tst")
    logstream.send("Dome opened")

For `logging`:

    logging.getLogger().addHandler(logstream.Handler("http://127.0.0.1:3000", "tst"))
"""

from __future__ import annotations

from . import exceptions
from ._client import Client, Stats
from ._default import Queued, configure, flush, post, send, stats
from ._handler import Handler

# As `requests` has them, but not for `import *`: one hides a name of Python's own.
from .exceptions import ConnectionError as ConnectionError
from .exceptions import HTTPError as HTTPError
from .exceptions import RequestException as RequestException
from .exceptions import Timeout as Timeout

__all__ = ["Client", "Handler", "Queued", "Stats", "configure", "exceptions", "flush", "post", "send", "stats"]
__version__ = "0.1.0"
