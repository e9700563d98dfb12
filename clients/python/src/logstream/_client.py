"""The queue and its worker."""

from __future__ import annotations

import atexit
import http.client
import itertools
import logging
import os
import random
import ssl
import sys
import threading
import time
import weakref
from collections import deque
from typing import Any, NamedTuple

from . import _message
from ._http import Answer, Poster, base_url
from ._spool import Spool, SpoolFile

log = logging.getLogger("logstream")

# What the queue may hold in all, so that long texts do not fill the memory.
_MAX_QUEUED_BYTES = 64 << 20
# How often an idle worker looks for the files of processes that are gone.
_RESCAN = 60.0
# Between two tries while somebody waits for the queue to be empty.
_HURRY = 0.3
# The tries of a message after which its trouble is worth a line in the log.
_WORTH_TELLING = 3
# What waits is sent together: the server takes 100 messages in a request. A
# request of this many bytes is still quick on a slow line.
_TOGETHER = 100
_TOGETHER_BYTES = 256 * 1024

# Why a message was dropped, as in `Stats.dropped`.
QUEUE_FULL = "queue full"
TOO_LARGE = "too large"
INVALID = "invalid"
CLOSED = "client closed"
DAMAGED = "damaged in the spool"
NOT_SENT_AT_EXIT = "not sent at exit"


class Stats(NamedTuple):
    """What became of the messages."""

    # Waiting now.
    queued: int
    # Stored by the server.
    sent: int
    # Posted again after a failure.
    retried: int
    # Those of `sent` that an earlier process had left in the spool.
    recovered: int
    # How many were given up, by reason. A refusal's is `refused: 400`.
    dropped: dict[str, int]
    # Messages that could not be written to the spool and were kept in memory.
    not_spooled: int
    # The last thing that went wrong, or an empty string.
    last_error: str


class _Entry:
    __slots__ = ("body", "end", "file")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.file: SpoolFile | None = None
        self.end = 0


class Client:
    """Sends messages from a thread of its own.

    `send` neither waits for the network nor raises. Safe for several threads.
    The arguments are checked here: a wrong one raises ValueError.

    url             the deployment's address, with or without `/newlog`
    site            the site of messages that name none
    key             a publisher's key; by default the variable LOGSTREAM_KEY
    spool           a folder that keeps the messages until they are stored
    queue_size      how many messages may wait: 10,000, or 100,000 with a spool
    flush_timeout   seconds that the end of the program may wait for the queue
    timeout         seconds to wait for the server, for each thing it does
    backoff         the first and the longest wait between tries, in seconds
    fsync           whether `send` waits until the disk has the message
    context         for certificates that the system does not know
    """

    def __init__(
        self,
        url: str,
        site: str | None = None,
        key: str | None = None,
        spool: None | str | os.PathLike[str] = None,
        *,
        queue_size: int | None = None,
        flush_timeout: float = 5.0,
        timeout: float = 10.0,
        backoff: tuple[float, float] = (0.5, 30.0),
        fsync: bool = False,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._url = base_url(url)
        if site is not None and not _is_site(site):
            raise ValueError(f"expected a site such as 'tst', not {_message.shown(site)}")
        self._site = site
        if key is None:
            key = os.environ.get("LOGSTREAM_KEY")
        key = (key or "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ValueError("the key must be printable ASCII")
        self._key = key or None
        if queue_size is None:
            queue_size = 10_000 if spool is None else 100_000
        if queue_size < 1 or timeout <= 0 or flush_timeout < 0 or not 0 < backoff[0] <= backoff[1]:
            raise ValueError("queue_size, timeout, flush_timeout and backoff must be positive")
        self._queue_size = queue_size
        self._flush_timeout = flush_timeout
        self._timeout = timeout
        self._backoff = backoff
        self._context = context
        self._spool = Spool(os.fspath(spool), self._url.geturl(), fsync) if spool is not None else None
        self._reset()
        _clients.add(self)
        if self._spool:
            # Whatever an earlier process left is sent without a first message.
            with self._condition:
                self._start()

    def _reset(self) -> None:
        """The state of a new process."""
        # Held for moments only, never while something is sent. Re-entrant, because
        # a signal's handler or a finalizer may send in the middle of `send`.
        self._condition = threading.Condition(threading.RLock())
        self._clock = _message.Clock()
        self._queue: deque[_Entry] = deque()
        self._bytes = 0
        # Messages that came in the middle of another's `send`.
        self._nested: deque[bytes] = deque()
        self._is_queueing = False
        # Running numbers of the last message that came, and of the last one that
        # is done with.
        self._accepted = 0
        self._finished = 0
        self._worker: threading.Thread | None = None
        # The spools of earlier processes have not all been sent.
        self._is_recovering = self._spool is not None
        # There is one whose messages have not all been sent.
        self._has_found = False
        self._closing = False
        # When the worker has to end, after `close`.
        self._deadline: float | None = None
        self._waiting = 0
        self._sent = self._retried = self._recovered = self._not_spooled = 0
        self._dropped: dict[str, int] = {}
        self._last_error = ""
        # What was said to the log, once; and what is to be said by the worker,
        # because a log's handler may wait for a disk or a terminal.
        self._told: dict[str, bool] = {}
        self._to_tell: list[str] = []
        self._is_away = False
        # How many of the next messages go alone, because they were refused together.
        self._alone = 0

    # --- For any thread -------------------------------------------------------

    def send(self, text: object, level: object = "info", site: str | None = None, timestamp: object = None) -> bool:
        """Queues a message. False if it was dropped; `stats` has the reason.

        `text` may be any object; `level` is a name or a number of `logging`;
        `timestamp` is in Unix seconds, by default the present.
        """
        return self._send(text, level, site, timestamp, is_exact=True)

    def _send(self, text: object, level: object, site: str | None, timestamp: object, is_exact: bool) -> bool:
        try:
            text = _message.printable(text)
            level = _message.level_name(level)
            site = site if site is not None else self._site
            with self._condition:
                if self._closing:
                    return self._drop(CLOSED)
                if site is None or site == "":
                    return self._drop(INVALID, "a message has no site", key="no site")
                if not _is_site(site):
                    return self._drop(INVALID, f"a site must be a string, not {_message.shown(site)}", key="site")
                if len(text) > _message.MAX_TEXT:
                    return self._drop(TOO_LARGE, f"a message of {len(text)} characters is too large")
                time = None if timestamp is None else _message.microseconds(timestamp)
                if time is None:
                    if timestamp is not None:
                        guess = " (milliseconds?)" if _message.is_milliseconds(timestamp) else ""
                        self._tell(
                            "a timestamp is not in Unix seconds: "
                            f"{_message.shown(timestamp)}{guess}; the present is sent instead",
                            "timestamp",
                        )
                    time = self._clock.now()
                elif not is_exact:
                    time = self._clock.unique(time)
                return self._enter(_message.body(_message.printable(site), text, level, time))
        except Exception as error:
            return self._drop(INVALID, f"a message could not be queued: {type(error).__name__}: {error}")

    def _enter(self, body: bytes) -> bool:
        if self._is_queueing:
            self._nested.append(body)
            return True
        self._is_queueing = True
        try:
            is_queued = self._put(body)
            while self._nested:
                self._put(self._nested.popleft())
            return is_queued
        finally:
            self._is_queueing = False

    def _put(self, body: bytes) -> bool:
        if len(self._queue) >= self._queue_size or self._bytes + len(body) > _MAX_QUEUED_BYTES:
            return self._drop(QUEUE_FULL, "the queue is full; messages are dropped")
        entry = _Entry(body)
        if self._spool:
            try:
                entry.file, entry.end = self._spool.append(body)
            except OSError as error:
                self._not_spooled += 1
                self._last_error = f"the spool: {error}"
                self._tell(f"messages are kept in memory alone, because the spool cannot be written: {error}")
        self._queue.append(entry)
        self._bytes += len(body)
        self._accepted += 1
        if len(self._queue) == 1:
            self._condition.notify_all()
        self._start()
        return True

    def _drop(self, reason: str, told: str | None = None, count: int = 1, key: str | None = None) -> bool:
        with self._condition:
            self._dropped[reason] = self._dropped.get(reason, 0) + count
            if told is not None:
                self._last_error = told
                # A reason may have several faults behind it, each worth a line.
                key = reason if key is None else key
                if key not in self._told:
                    self._told[key] = True
                    self._to_tell.append(told)
                    self._condition.notify_all()
                    self._start()
        return False

    def _tell(self, line: str, key: str | None = None) -> None:
        """Has the worker log a line, the first time that it, or its key, is told."""
        key = line if key is None else key
        with self._condition:
            if key not in self._told and len(self._told) < 100:
                self._told[key] = True
                self._to_tell.append(line)

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until all that was queued before is sent or refused, by default
        for `flush_timeout`. False if time ran out."""
        end = time.monotonic() + (self._flush_timeout if timeout is None else timeout)
        with self._condition:
            last = self._accepted
            self._waiting += 1
            # Ends a long wait for the next try.
            self._condition.notify_all()
            try:
                while self._finished < last or self._is_recovering:
                    if self._deadline is not None and self._worker is None:
                        return False
                    left = end - time.monotonic()
                    if left <= 0:
                        return False
                    self._condition.wait(left)
                return True
            finally:
                self._waiting -= 1

    def close(self, timeout: float | None = None) -> bool:
        """Sends what is queued, by default for `flush_timeout` at most, and ends.

        False if something was left over. It is in the spool, or else lost.
        """
        self._begin_to_close(timeout)
        with self._condition:
            deadline = self._deadline or 0.0
            worker = self._worker
            if worker is not threading.current_thread():
                while self._worker is not None and time.monotonic() < deadline:
                    self._condition.wait(max(0.0, deadline - time.monotonic()))
            is_left = self._worker is None and (bool(self._queue) or self._is_recovering)
            if is_left:
                # At the interpreter's end no thread can be started any more.
                self._worker = threading.current_thread()
        if is_left and time.monotonic() < deadline:
            self._work()
        with self._condition:
            if self._worker is threading.current_thread():
                self._worker = None
            left = len(self._queue)
            lost = sum(1 for entry in self._queue if entry.file is None)
            trouble = self._last_error or "time ran out"
            self._queue.clear()
            self._bytes = 0
            waiting = self._waits_in_spool(left - lost)
            if self._spool and waiting:
                self._tell(f"{waiting} in {self._spool.folder} for the next start: {trouble}", "the spool at the end")
            if lost:
                self._drop(NOT_SENT_AT_EXIT, f"{lost} messages could not be sent before the end: {trouble}", lost)
            lines, self._to_tell = self._to_tell, []
        for line in lines:
            _report(line)
        return left == 0 and not self._is_recovering

    def _waits_in_spool(self, own: int) -> str:
        """Says what a later start has to send, of this many own messages and
        of those that were found; they are not counted, as most are not read yet."""
        waiting = [f"{own} message{'' if own == 1 else 's'}"] if own else []
        if self._has_found:
            waiting.append("what earlier runs left")
        verb = "wait" if own > 1 or len(waiting) > 1 else "waits"
        return f"{' and '.join(waiting)} {verb}" if waiting else ""

    def _begin_to_close(self, timeout: float | None = None) -> None:
        with self._condition:
            if not self._closing:
                self._closing = True
                self._deadline = time.monotonic() + (self._flush_timeout if timeout is None else timeout)
                self._condition.notify_all()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def stats(self) -> Stats:
        with self._condition:
            return Stats(
                queued=len(self._queue),
                sent=self._sent,
                retried=self._retried,
                recovered=self._recovered,
                dropped=dict(self._dropped),
                not_spooled=self._not_spooled,
                last_error=self._last_error,
            )

    # --- The worker -----------------------------------------------------------

    def _start(self) -> None:
        """Starts the worker if there is none, with the first message: a program
        may fork before."""
        if self._worker is not None or self._closing:
            return
        worker = threading.Thread(target=self._work, name="logstream", daemon=True)
        self._worker = worker
        try:
            worker.start()
        except RuntimeError:
            # No more threads. The next message tries again, and the end sends.
            self._worker = None
        else:
            _finish_in_child_of_multiprocessing(self)

    def _work(self) -> None:
        poster = Poster(self._url, self._key, self._context)
        try:
            self._send_queue(poster)
        finally:
            poster.close()
            if self._spool and self._closing:
                try:
                    self._spool.close()
                except OSError as error:
                    log.debug("the spool cannot be closed: %s", error)
            with self._condition:
                self._worker = None
                self._condition.notify_all()

    def _send_queue(self, poster: Poster) -> None:
        scan = time.monotonic() if self._spool else None
        while not self._is_expired():
            self._report_all()
            if scan is not None and time.monotonic() >= scan:
                self._recover(poster)
                scan = time.monotonic() + _RESCAN
            with self._condition:
                if not self._queue:
                    if self._to_tell:
                        continue
                    if self._closing:
                        return
                    self._condition.wait(None if scan is None else max(0.0, scan - time.monotonic()))
                    continue
                entries = list(itertools.islice(self._queue, _TOGETHER))
            count = self._deliver(poster, [entry.body for entry in entries])
            if count == 0:
                return
            for entry in entries[:count]:
                if self._spool and entry.file:
                    self._note(entry.file, entry.end)
            with self._condition:
                for entry in entries[:count]:
                    # `close` empties the queue when time is over.
                    if self._queue and self._queue[0] is entry:
                        self._queue.popleft()
                        self._bytes -= len(entry.body)
                    self._finished += 1
                self._condition.notify_all()

    def _recover(self, poster: Poster) -> None:
        """Sends what processes that are gone have left in the spool."""
        assert self._spool
        try:
            for file in self._spool.left_behind():
                self._has_found = True
                left = deque(file.messages())
                while left:
                    # A power cut may leave anything in a file.
                    whole = list(itertools.takewhile(_is_whole, itertools.islice(left, _TOGETHER)))
                    if not whole:
                        self._drop(DAMAGED, "a message in the spool is damaged")
                    count = self._deliver(poster, [body for body, _ in whole], is_recovered=True) if whole else 1
                    if count == 0:
                        self._spool.release(file)
                        return
                    for _ in range(count):
                        _, end = left.popleft()
                    file.finish(end)
                self._spool.discard(file)
        except (OSError, ValueError) as error:
            self._tell(f"the spool cannot be read: {error}")
        with self._condition:
            self._has_found = False
            self._is_recovering = False
            self._condition.notify_all()

    def _note(self, file: SpoolFile, end: int) -> None:
        assert self._spool
        try:
            self._spool.finish(file, end)
        except OSError as error:
            # It may be sent again after a crash, and is recognised then.
            self._tell(f"the spool cannot be written: {error}")

    def _deliver(self, poster: Poster, bodies: list[bytes], is_recovered: bool = False) -> int:
        """Posts the first of these messages, or several together, until they are
        stored or refused. Returns how many; 0 if the client was closed before."""
        count = 1 if self._alone else _fitting(bodies)
        self._alone = max(0, self._alone - 1)
        tries = 0
        while True:
            body = bodies[0] if count == 1 else b"[" + b",".join(bodies[:count]) + b"]"
            answer: Answer | None = None
            try:
                answer = poster.post(body, self._patience())
                trouble = f"{answer.status} {answer.text}".strip()
            except (OSError, http.client.HTTPException) as error:
                trouble = f"{type(error).__name__}: {error}"
            except Exception as error:
                # A fault of this client: the next message may fare better.
                self._drop(INVALID, f"a message could not be posted: {type(error).__name__}: {error}", count)
                return count
            if answer and 200 <= answer.status < 300:
                with self._condition:
                    self._sent += count
                    self._recovered += count if is_recovered else 0
                    if self._is_away:
                        self._is_away = False
                        self._to_tell.append(f"{self._url.netloc} takes messages again")
                return count
            if answer and not (answer.status in (408, 425, 429) or answer.status >= 500):
                if count > 1:
                    # One is wrong, and none is stored. Each goes alone, so that
                    # the others are.
                    self._alone = count - 1
                    count = 1
                    continue
                self._drop(f"refused: {answer.status}", f"{self._url.netloc} refuses messages: {trouble}")
                return 1
            tries += 1
            # While the server fails, one message is enough to ask whether it is back.
            count = 1
            with self._condition:
                self._retried += 1
                self._last_error = trouble
                if tries == _WORTH_TELLING and not self._is_away:
                    self._is_away = True
                    self._to_tell.append(f"{self._url.netloc} takes no messages, trying on: {trouble}")
            self._report_all()
            least = answer.retry_after if answer and answer.retry_after else 0.0
            first, longest = self._backoff
            # Anything up to the limit, so that many senders do not come back at once.
            self._pause(least + random.uniform(0, min(longest, first * 2 ** min(tries - 1, 20))))
            if self._is_expired():
                return 0

    def _is_expired(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _patience(self) -> float:
        if self._deadline is None:
            return self._timeout
        return max(0.05, min(self._timeout, self._deadline - time.monotonic()))

    def _pause(self, seconds: float) -> None:
        began = time.monotonic()
        with self._condition:
            while not self._is_expired():
                is_hurried = self._closing or self._waiting
                left = began + (min(seconds, _HURRY) if is_hurried else seconds) - time.monotonic()
                if left <= 0:
                    return
                self._condition.wait(left)

    def _report_all(self) -> None:
        with self._condition:
            lines, self._to_tell = self._to_tell, []
        for line in lines:
            _report(line)


def _is_site(site: object) -> bool:
    return isinstance(site, str) and site != ""


def _fitting(bodies: list[bytes]) -> int:
    """How many of the messages go into a request: one at least."""
    ends = itertools.accumulate(len(body) + 1 for body in bodies)
    return max(1, sum(end <= _TOGETHER_BYTES for end in ends))


def _is_whole(line: tuple[bytes, int]) -> bool:
    body, _ = line
    return body.startswith(b"{") and body.endswith(b"}") and body.isascii()


def _report(line: str) -> None:
    """Logs a line, or prints it if only this package's own handler would get it."""
    try:
        logger: logging.Logger | None = log
        handlers: list[logging.Handler] = []
        while logger:
            handlers += logger.handlers
            logger = logger.parent if logger.propagate else None
        others = any(not getattr(handler, "is_logstream", False) for handler in handlers)
        if others or not handlers:
            # Without any handler Python prints it.
            log.warning("%s", line)
        elif sys.stderr:
            sys.stderr.write(f"logstream: {line}\n")
    except Exception:
        # Nowhere to say it; `stats` has it.
        return


# --- The end of a process and forks ---------------------------------------------

_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _close_all() -> None:
    # All at the same time: the limits do not add up.
    clients = list(_clients)
    for client in clients:
        client._begin_to_close()
    for client in clients:
        client.close()


def _forget_all() -> None:
    for client in list(_clients):
        was_closing = client._closing
        if client._spool:
            client._spool.forget()
        # The parent's worker sends what is in the parent's queue.
        client._reset()
        client._closing = was_closing
        # Until the child has a worker, which the first message starts.
        client._is_recovering = False


def _finish_in_child_of_multiprocessing(client: Client) -> None:
    """Such a process ends without `atexit`."""
    if "multiprocessing.process" not in sys.modules:
        return
    from multiprocessing import process, util

    if process.parent_process() is None:
        return
    reference = weakref.ref(client)

    def close() -> None:
        there = reference()
        if there:
            there.close()

    finalize: Any = util.Finalize
    finalize(None, close, exitpriority=0)


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
