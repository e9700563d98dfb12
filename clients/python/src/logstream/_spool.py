"""Files that keep the messages until they are stored.

A spool is a folder. Each process has files of its own in it, locked for as long
as the process lives, and adopts those that nobody has locked: their process is
gone. A file begins with a header of fixed length, which says up to where its
messages are done with. Then comes one message on each line.

The header is written after the answer. If the process is killed in between, the
message is posted again, with the same timestamp, and the server stores it once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from typing import Iterator

if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> None:
        # Windows keeps others from reading a locked byte, so it is one that the
        # file will never have.
        os.lseek(fd, 0x7FFF_0000, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        os.lseek(fd, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


_MAGIC = b"logstream spool 1 "
_HEADER = len(_MAGIC) + 20 + 1
# A longer file is followed by another, so that what is done with can be deleted.
_MAX_FILE = 1 << 20
# All files of the folder together.
_MAX_FOLDER = 512 << 20
_FLAGS = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def _header(done: int) -> bytes:
    return _MAGIC + b"%020d\n" % done


class SpoolFile:
    """A file that this process has locked."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        # With the lock, for appending.
        self._fd = fd
        # With a position of its own, because the worker writes the header while
        # others append.
        try:
            self._worker_fd = os.open(path, _FLAGS)
        except BaseException:
            os.close(fd)
            raise
        self.size = _HEADER
        self.done = _HEADER
        # Nothing more is appended.
        self.is_full = False

    def start(self) -> None:
        """Writes the header of a new file."""
        if os.write(self._fd, _header(_HEADER)) < _HEADER:
            raise OSError("the disk is full")

    def append(self, body: bytes, fsync: bool) -> int:
        """Writes a message, and returns the position of its end."""
        line = body + b"\n"
        os.lseek(self._fd, self.size, os.SEEK_SET)
        # Less than all is written if the disk is full. A line without an end is
        # no message.
        if os.write(self._fd, line) < len(line):
            raise OSError("the disk is full")
        if fsync:
            os.fsync(self._fd)
        self.size += len(line)
        return self.size

    def finish(self, end: int) -> None:
        """Notes that the messages up to this position are done with."""
        os.lseek(self._worker_fd, 0, os.SEEK_SET)
        os.write(self._worker_fd, _header(end))
        self.done = end

    def adopt(self) -> bool:
        """Reads how far a file of another process is done with. False if it has
        no header: that process ended before writing it."""
        os.lseek(self._worker_fd, 0, os.SEEK_SET)
        header = os.read(self._worker_fd, _HEADER)
        if len(header) < _HEADER or not header.startswith(_MAGIC) or not header[len(_MAGIC) : -1].isdigit():
            return False
        self.done = max(_HEADER, int(header[len(_MAGIC) : -1]))
        self.size = os.fstat(self._worker_fd).st_size
        self.is_full = True
        return True

    def messages(self) -> Iterator[tuple[bytes, int]]:
        """What an adopted file has left, each message with the position of its end."""
        os.lseek(self._worker_fd, self.done, os.SEEK_SET)
        data = b""
        while True:
            block = os.read(self._worker_fd, 1 << 20)
            if not block:
                break
            data += block
        offset = self.done
        for line in data.splitlines(keepends=True):
            offset += len(line)
            if line.endswith(b"\n"):
                yield line[:-1], offset

    def close(self) -> None:
        os.close(self._worker_fd)
        os.close(self._fd)

    def delete(self) -> None:
        if sys.platform != "win32":
            # Before the lock is given up, so that nobody adopts it.
            os.unlink(self.path)
            self.close()
            return
        # Windows deletes no open file. Another process may adopt it in between,
        # which does no harm: there is nothing left to send.
        self.close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)


class Spool:
    """This process's part of the folder."""

    def __init__(self, folder: str, url: str, fsync: bool) -> None:
        self.folder = folder
        # The messages for other deployments are left alone.
        self._prefix = hashlib.sha256(url.encode("utf-8")).hexdigest()[:12] + "-"
        self._fsync = fsync
        self._current: SpoolFile | None = None
        self._open: set[SpoolFile] = set()
        self._count = 0

    def append(self, body: bytes) -> tuple[SpoolFile, int]:
        """Raises OSError if the message cannot be kept."""
        current = self._current
        if current is None:
            current = self._current = self._create()
        try:
            end = current.append(body, self._fsync)
        except BaseException:
            self._retire()
            raise
        if current.size >= _MAX_FILE:
            self._retire()
        return current, end

    def _retire(self) -> None:
        if self._current:
            self._current.is_full = True
            self._current = None

    def _create(self) -> SpoolFile:
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        with os.scandir(self.folder) as entries:
            if sum(entry.stat().st_size for entry in entries) > _MAX_FOLDER:
                raise OSError(f"{self.folder} has reached its limit of {_MAX_FOLDER >> 20} MiB")
        while True:
            self._count += 1
            name = f"{self._prefix}{time.time_ns():020d}-{os.getpid()}-{self._count}.spool"
            path = os.path.join(self.folder, name)
            fd = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
            if not self._is_ours(fd, path):
                # Another process took it for one that was left behind.
                continue
            file = SpoolFile(path, fd)
            try:
                file.start()
                if self._fsync:
                    self._fsync_folder()
            except BaseException:
                file.delete()
                raise
            self._open.add(file)
            return file

    def _fsync_folder(self) -> None:
        if sys.platform != "win32":
            fd = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    @staticmethod
    def _is_ours(fd: int, path: str) -> bool:
        """Locks the file. False, with the file closed, if another process has it
        or had it, and deleted it in between."""
        try:
            _lock(fd)
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return True
        except OSError:
            pass
        os.close(fd)
        return False

    def left_behind(self) -> Iterator[SpoolFile]:
        """The files of processes that are gone, oldest first, each to be deleted
        or closed."""
        names: list[str] = []
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return
        for name in names:
            path = os.path.join(self.folder, name)
            if not (name.startswith(self._prefix) and name.endswith(".spool")):
                continue
            if any(file.path == path for file in list(self._open)):
                continue
            try:
                fd = os.open(path, _FLAGS)
            except OSError:
                continue
            if not self._is_ours(fd, path):
                continue
            file = SpoolFile(path, fd)
            if file.adopt():
                self._open.add(file)
                yield file
            else:
                file.delete()

    def finish(self, file: SpoolFile, end: int) -> None:
        """Notes that the messages up to this position are done with, and deletes
        the file after its last one. For the worker alone."""
        file.finish(end)
        if file.is_full and file.done >= file.size:
            self.discard(file)

    def discard(self, file: SpoolFile) -> None:
        self._open.discard(file)
        file.delete()

    def release(self, file: SpoolFile) -> None:
        """Leaves the file to another process."""
        self._open.discard(file)
        file.close()

    def close(self) -> None:
        """Deletes the files that are done with, and leaves the others behind."""
        self._current = None
        for file in list(self._open):
            if file.done >= file.size:
                self.discard(file)
            else:
                self.release(file)

    def forget(self) -> None:
        """In a forked process: the files are the parent's. An open one would keep
        its lock after the parent's end."""
        self._current = None
        for file in list(self._open):
            with contextlib.suppress(OSError):
                file.close()
        self._open.clear()
