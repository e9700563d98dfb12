"""The end of the sending process, in every way, forks, and the spool."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
import unittest
from typing import Any

from logstream import Client
from logstream._spool import Spool

from .support import PATIENCE, Case, unless, until

POSIX = unittest.skipIf(sys.platform == "win32", "for POSIX")


def spool_files(folder: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith(".spool"))


class End(Case):
    def ends(self, text: str, status: int, expected: list[str]) -> None:
        process = self.script(text, self.server.url, self.site)
        _, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, status, errors)
        self.assertEqual(self.server.texts(self.site), expected)

    def test_what_was_sent_before_the_end_arrives(self) -> None:
        self.ends("client = logstream.Client(url, site)\nfor n in range(20): client.send(n)", 0, [*map(str, range(20))])

    def test_also_before_an_error(self) -> None:
        self.ends("logstream.configure(url, site)\nlogstream.send('before')\n1 / 0", 1, ["before"])

    def test_also_with_exit_and_in_a_handler_of_the_exit(self) -> None:
        # Registered after the client's, so it runs before.
        text = (
            "import atexit\nc = logstream.Client(url, site)\natexit.register(c.send, 'at exit')\nc.send(1)\nsys.exit(3)"
        )
        self.ends(text, 3, ["1", "at exit"])

    def test_also_if_the_first_message_is_sent_when_no_thread_can_be_started(self) -> None:
        text = "import atexit\nc = logstream.Client(url, site)\natexit.register(c.send, 'at exit')"
        self.ends(text, 0, ["at exit"])

    def test_a_server_that_hangs_holds_up_the_end_for_the_limit_and_the_loss_is_told(self) -> None:
        proxy = self.proxy(lambda number, body: PATIENCE)
        began = time.monotonic()
        process = self.script(
            "c = logstream.Client(url, site, flush_timeout=0.5)\nfor n in range(7): c.send(n)", proxy.url, self.site
        )
        _, errors = process.communicate(timeout=PATIENCE)
        self.assertLess(time.monotonic() - began, 10)
        self.assertEqual(process.returncode, 0)
        self.assertIn("7 messages could not be sent before the end", errors)

    def test_several_clients_share_one_limit(self) -> None:
        proxy = self.proxy(lambda number, body: PATIENCE)
        text = """
clients = [logstream.Client(url, site, flush_timeout=1) for _ in range(12)]
for client in clients: client.send(1)
print(time.monotonic(), flush=True)
"""
        process = self.script(text, proxy.url, self.site)
        output, _ = process.communicate(timeout=PATIENCE)
        self.assertLess(time.monotonic() - float(output), 6)


@POSIX
class Fork(Case):
    def test_parent_and_child_send_each_their_own_once(self) -> None:
        for spool in ("", self.folder):
            site = self.site + spool[-4:]
            gate = threading.Event()
            proxy = self.proxy(unless(gate))
            text = """
client = logstream.Client(url, site, spool=rest[0] or None, backoff=(0.01, 0.05))
for n in range(20): client.send(f"parent {n}")
child = os.fork()
if child == 0:
    for n in range(20): client.send(f"child {n}")
    os.write(1, b"child %d\\n" % client.stats.queued)
    sys.exit(0 if client.flush(60) else 1)
for n in range(20, 30): client.send(f"parent {n}")
os.write(1, b"parent %d\\n" % client.stats.queued)
status = os.waitpid(child, 0)[1]
sys.exit(1 if status or not client.flush(60) else 0)
"""
            process = self.script(text, proxy.url, site, spool)
            assert process.stdout
            self.assertEqual(sorted(process.stdout.readline() for _ in range(2)), ["child 20\n", "parent 30\n"])
            gate.set()
            _, errors = process.communicate(timeout=PATIENCE)
            self.assertEqual(process.returncode, 0, errors)
            texts = self.server.texts(site)
            self.assertEqual([text for text in texts if "c" in text], [f"child {number}" for number in range(20)])
            self.assertEqual([text for text in texts if "p" in text], [f"parent {number}" for number in range(30)])
            # Not only did the server recognise them: none was posted by both.
            self.assertEqual(len(proxy.forwarded), 50)
            self.assertEqual(spool_files(self.folder), [])

    def test_a_fork_while_other_threads_send_does_not_hang_the_child(self) -> None:
        text = """
import threading
client = logstream.Client(url, site)
stop = threading.Event()
def send():
    while not stop.is_set(): client.send("thread"); time.sleep(0.0001)
threads = [threading.Thread(target=send) for _ in range(2)]
[t.start() for t in threads]
for n in range(20):
    child = os.fork()
    if child == 0:
        client.send(f"child {n}")
        os._exit(0 if client.flush(60) else 1)
    if os.waitpid(child, 0)[1]: print("failed", n)
stop.set()
[t.join() for t in threads]
"""
        process = self.script(text, self.server.url, self.site)
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, output), (0, ""), errors)
        children = [text for text in self.server.texts(self.site) if text.startswith("child")]
        self.assertEqual(children, [f"child {number}" for number in range(20)])

    def test_processes_of_multiprocessing_send_before_they_end(self) -> None:
        for method in ("fork", "spawn"):
            site = self.site + method
            context: Any = multiprocessing.get_context(method)
            client = self.client(self.server.url, site=site)
            client.send("parent")
            self.flush(client)
            processes = [context.Process(target=send_some, args=(self.server.url, site, name)) for name in "ab"]
            for process in processes:
                process.start()
            for process in processes:
                process.join(PATIENCE)
                self.assertEqual(process.exitcode, 0)
            texts = self.server.texts(site)
            for name in "ab":
                self.assertEqual(
                    [text for text in texts if text[0] == name], [f"{name} {number}" for number in range(20)]
                )
            self.assertEqual(len(texts), 41)


def send_some(url: str, site: str, name: str) -> None:
    client = Client(url, site)
    for number in range(20):
        client.send(f"{name} {number}")


class OnDisk(Case):
    def test_what_a_killed_process_left_is_sent_first_by_the_next_one(self) -> None:
        server = self.own_server()
        server.kill()
        text = """
client = logstream.Client(url, site, spool=rest[0])
for n in range(20): client.send(n, "WARN")
print("done", flush=True)
time.sleep(600)
"""
        process = self.script(text, server.url, self.site, self.folder)
        assert process.stdout
        process.stdout.readline()
        process.kill()
        process.wait()
        self.assertEqual(len(spool_files(self.folder)), 1)
        server.start()
        client = self.client(server.url, spool=self.folder)
        client.send("next")
        self.flush(client)
        self.assertEqual(server.texts(self.site), [*map(str, range(20)), "next"])
        self.assertEqual({message["log_level"] for message in server.history(self.site)[:20]}, {"warning"})
        self.assertEqual(client.stats[1:5], (21, 0, 20, {}))
        self.assertTrue(client.close())
        self.assertEqual(spool_files(self.folder), [])

    def test_a_start_without_a_message_sends_what_was_left(self) -> None:
        server = self.own_server()
        server.kill()
        first = self.client(server.url, spool=self.folder)
        first.send("left")
        self.assertFalse(first.close(0.1))
        self.assertEqual(first.stats.dropped, {})
        # Its worker has left the file to others.
        until(lambda: first._worker is None)
        server.start()
        second = self.client(server.url, spool=self.folder)
        self.flush(second)
        self.assertEqual(server.texts(self.site), ["left"])

    def test_what_waits_in_the_folder_at_the_end_is_told(self) -> None:
        text = (
            "c = logstream.Client(url, site, spool=rest[0], flush_timeout=0.5)\nfor n in range(int(rest[1])): c.send(n)"
        )
        for count, line in (
            ("2", "2 messages wait in"),
            ("1", "1 message and what earlier runs left wait in"),
            ("0", "what earlier runs left waits in"),
        ):
            process = self.script(text, "http://127.0.0.1:1", self.site, self.folder, count)
            _, errors = process.communicate(timeout=PATIENCE)
            self.assertEqual(process.returncode, 0)
            self.assertIn(f"{line} {self.folder} for the next start", errors)
        # Where nothing is left, nothing is told.
        process = self.script(text, self.server.url, self.site, self.folder, "1")
        self.assertEqual(process.communicate(timeout=PATIENCE), ("", ""))

    def test_two_processes_with_one_folder_send_each_their_own_and_adopt_only_the_dead(self) -> None:
        gate = threading.Event()
        proxy = self.proxy(unless(gate))
        text = """
c = logstream.Client(url, site, spool=rest[0], backoff=(0.01, 0.05))
for n in range(50): c.send(f"{rest[1]} {n}")
print("done", flush=True)
sys.stdin.readline()
sys.exit(0 if c.close(60) else 1)
"""
        processes = [
            self.script(text, proxy.url, self.site, self.folder, name, stdin=subprocess.PIPE) for name in "abc"
        ]
        for process in processes:
            assert process.stdout
            self.assertEqual(process.stdout.readline(), "done\n")
        processes[2].kill()
        processes[2].wait()
        self.assertEqual(len(spool_files(self.folder)), 3)
        gate.set()
        # Only a new process looks at once.
        client = self.client(proxy.url, spool=self.folder)
        self.flush(client)
        self.assertEqual(client.stats.recovered, 50)
        for process in processes[:2]:
            _, errors = process.communicate("\n", timeout=PATIENCE)
            self.assertEqual(process.returncode, 0, errors)
        texts = self.server.texts(self.site)
        for name in "abc":
            self.assertEqual([text for text in texts if text[0] == name], [f"{name} {number}" for number in range(50)])
        self.assertEqual(len(texts), 150)
        client.close()
        self.assertEqual(spool_files(self.folder), [])

    def test_messages_for_another_deployment_are_left_alone(self) -> None:
        other = self.client("http://127.0.0.1:1", spool=self.folder)
        other.send("for another")
        other.close(0.1)
        client = self.client(self.server.url, spool=self.folder)
        client.send("mine")
        self.flush(client)
        client.close()
        self.assertEqual(self.server.texts(self.site), ["mine"])
        self.assertEqual(len(spool_files(self.folder)), 1)

    def test_a_torn_or_damaged_line_costs_no_other(self) -> None:
        client = self.client("http://127.0.0.1:1", spool=self.folder)
        for number in range(3):
            client.send(number)
        client.close(0.0)
        until(lambda: client._worker is None)
        (name,) = spool_files(self.folder)
        path = os.path.join(self.folder, name)
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
        lines[2] = b"\0" * len(lines[2])
        # As if the process had been killed in the middle of a write, and its
        # neighbour before it wrote anything.
        with open(path, "wb") as file:
            file.write(b"\n".join(lines[:-1]) + b'\n{"site": "torn')
        prefix = Spool(self.folder, self.server.url, False)._prefix
        os.rename(path, os.path.join(self.folder, prefix + "1.spool"))
        open(os.path.join(self.folder, prefix + "0.spool"), "w").close()
        after = self.client(self.server.url, spool=self.folder)
        self.flush(after)
        self.assertEqual(self.server.texts(self.site), ["0", "2"])
        self.assertEqual(after.stats.dropped, {"damaged in the spool": 1})
        self.assertTrue(after.close())
        self.assertEqual(spool_files(self.folder), [])

    def test_a_long_outage_fills_several_files_which_are_deleted_as_they_are_sent(self) -> None:
        server = self.own_server()
        server.kill()
        client = self.client(server.url, spool=self.folder)
        texts = [f"{number} " + "x" * 100_000 for number in range(40)]
        for text in texts:
            self.assertTrue(client.send(text))
        self.assertGreater(len(spool_files(self.folder)), 3)
        server.start()
        self.flush(client)
        until(lambda: len(spool_files(self.folder)) <= 1)
        self.assertEqual(server.texts(self.site), texts)
        self.assertTrue(client.close())
        self.assertEqual(spool_files(self.folder), [])

    def test_a_folder_that_cannot_be_written_is_told_and_messages_go_on_in_memory(self) -> None:
        path = os.path.join(self.folder, "file")
        open(path, "w").close()
        with self.assertLogs("logstream", "WARNING") as logs:
            client = self.client(self.server.url, spool=path)
            self.assertTrue(client.send("in memory"))
            self.flush(client)
            until(lambda: any("kept in memory alone" in line for line in logs.output))
        self.assertEqual(self.server.texts(self.site), ["in memory"])
        self.assertEqual(client.stats.not_spooled, 1)

    @POSIX
    def test_a_full_disk_loses_nothing_of_what_was_written(self) -> None:
        server = self.own_server()
        server.kill()
        # The limit of a file's size stands for the disk's: a write is cut short.
        text = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
c = logstream.Client(url, site, spool=rest[0], flush_timeout=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
print(sum(c.send(f"{n} " + "x" * 200) for n in range(40)), flush=True)
print(c.stats.not_spooled, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
        process = self.script(text, server.url, self.site, self.folder)
        output, errors = process.communicate(timeout=PATIENCE)
        sent, not_spooled = map(int, output.split())
        self.assertEqual(sent, 40)
        self.assertTrue(0 < not_spooled < 40, not_spooled)
        server.start()
        client = self.client(server.url, spool=self.folder)
        self.flush(client)
        self.assertEqual(len(server.texts(self.site)), 40 - not_spooled)

    def test_fsync_changes_nothing_but_the_time(self) -> None:
        client = self.client(self.server.url, spool=self.folder, fsync=True)
        for number in range(5):
            client.send(number)
        self.flush(client)
        self.assertEqual(self.server.texts(self.site), [*map(str, range(5))])
