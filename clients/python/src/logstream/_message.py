"""A message as it is queued and posted: its body, and its timestamp."""

from __future__ import annotations

import json
import logging
import math
import time
from collections import deque

# A message's frame may take this many bytes, so no longer text can be stored.
MAX_TEXT = 131_072
# The server's limit for a timestamp, in microseconds.
_MAX_MICROSECONDS = 99_999_999_999 * 1_000_000
# By this much the clock may go back without the order being given up.
_HOLD = 60 * 1_000_000
# So many timestamps are remembered, so that none is given twice.
_REMEMBERED = 4096


class Clock:
    """Gives each message a time of its own, in microseconds.

    The server takes two messages with the same site, text, level and time for
    one that was sent twice. Not thread-safe.
    """

    def __init__(self) -> None:
        self._last = 0
        self._used: set[int] = set()
        self._order: deque[int] = deque()

    def now(self) -> int:
        """The present, later than the call before.

        A clock that is set back by a little stands still until it has caught
        up. One that is set back by more than a minute was wrong before, and is
        followed: the times that it gave are not made the measure of all others.
        """
        now = time.time_ns() // 1000
        if self._last - _HOLD < now <= self._last:
            now = self._last + 1
        self._last = self.unique(now)
        return self._last

    def unique(self, microseconds: int) -> int:
        """This time, or the next one that was not given before."""
        while microseconds in self._used:
            microseconds += 1
        self._used.add(microseconds)
        self._order.append(microseconds)
        if len(self._order) > _REMEMBERED:
            self._used.discard(self._order.popleft())
        return microseconds


def microseconds(timestamp: object) -> int | None:
    """Unix seconds, as a number or a number in a string. None if it is neither."""
    try:
        value = round(float(timestamp) * 1_000_000)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return value if 0 <= value <= _MAX_MICROSECONDS else None


def is_milliseconds(timestamp: object) -> bool:
    """Whether a timestamp that is not taken is too large for seconds."""
    try:
        return _MAX_MICROSECONDS < float(timestamp) * 1_000_000 < math.inf  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def level_name(level: object) -> str:
    """The name of a level, which may be a number of `logging`."""
    if isinstance(level, str):
        return printable(level)
    if not isinstance(level, (int, float)):
        return "info"
    if level >= logging.CRITICAL:
        return "critical"
    if level >= logging.ERROR:
        return "error"
    if level >= logging.WARNING:
        return "warning"
    if level >= logging.INFO:
        return "info"
    return "debug"


def printable(value: object) -> str:
    """`str(value)`, whatever the value is, as text that UTF-8 can hold."""
    try:
        text = str(value)
    except Exception as error:
        text = f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
    # Half of a surrogate pair, as in names of files that are not UTF-8. The
    # server refuses it.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shown(value: object) -> str:
    """A value in an error: not all of a long one."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 100 else f"{text[:97]}..."


def body(site: str, text: str, level: str, time: int) -> bytes:
    """The JSON of a message, on one line and in ASCII."""
    fields = json.dumps({"site": site, "log_message": text, "log_level": level})
    seconds, fraction = divmod(time, 1_000_000)
    # As text, because a float does not hold every microsecond.
    return f'{fields[:-1]}, "timestamp": {seconds}.{fraction:06d}}}'.encode("ascii")
