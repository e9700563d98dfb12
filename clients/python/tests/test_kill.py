"""A process is killed at a random moment while it sends, with a spool, and the
server fails meanwhile. Every message whose `send` returned is stored once.

KILL_ROUNDS says how many times; KILL_SEED repeats a run's moments.
"""

from __future__ import annotations

import collections
import os
import random
import subprocess
import sys
import time
import unittest

from .support import PATIENCE, Case, until

ROUNDS = int(os.environ.get("KILL_ROUNDS", "20"))
SEED = int(os.environ.get("KILL_SEED", str(random.randrange(1 << 30))))

# Prints a message's number once `send` has returned.
SENDER = """
import os, sys, time
import logstream
url, site, folder, name = sys.argv[1:]
client = logstream.Client(url, site, spool=folder, backoff=(0.001, 0.02))
number = 0
while True:
    text = f"{name}.{number}"
    if client.send(text):
        os.write(1, text.encode() + b"\\n")
    number += 1
    time.sleep(0.001)
"""


@unittest.skipIf(sys.platform == "win32", "for POSIX")
class Kill(Case):
    def test_every_message_whose_send_returned_is_stored_once(self) -> None:
        print(f"KILL_SEED={SEED} KILL_ROUNDS={ROUNDS}", file=sys.stderr)
        chance = random.Random(SEED)
        faults = random.Random(SEED + 1)

        # Every tenth time or so something fails, in each way.
        def plan(number: int, body: object) -> object:
            return faults.choice(["cut", "lose", 503, 0.02]) if faults.random() < 0.1 else None

        proxy = self.proxy(plan)
        returned: list[str] = []
        for round_ in range(ROUNDS):
            process = subprocess.Popen(
                [sys.executable, "-c", SENDER, proxy.url, self.site, self.folder, str(round_)], stdout=subprocess.PIPE
            )
            assert process.stdout
            # Now and then before the first message, in the start of the process.
            if chance.random() < 0.9:
                returned.append(process.stdout.readline().decode().rstrip("\n"))
                time.sleep(chance.uniform(0, 0.1))
            else:
                time.sleep(chance.uniform(0, 0.2))
            process.kill()
            rest, _ = process.communicate(timeout=PATIENCE)
            returned += rest.decode().split()
        with self.client(proxy.url, spool=self.folder) as last:
            self.assertTrue(last.flush(PATIENCE), last.stats)
            recovered = last.stats.recovered
            self.assertEqual(last.stats.dropped, {})
        self.assertEqual([name for name in os.listdir(self.folder) if name.endswith(".spool")], [])
        # What the proxy still forwards of a process that was killed.
        until(lambda: proxy.is_idle())
        stored: dict[str, int] = collections.Counter(self.server.texts(self.site))
        self.assertEqual([text for text in returned if text not in stored], [])
        self.assertEqual({text: count for text, count in stored.items() if count > 1}, {})
        # A message may be stored though the process was killed before it could say so.
        self.assertLessEqual(len(stored) - len(returned), ROUNDS)
        again = len(proxy.requests) - len(stored)
        print(
            f"{ROUNDS} kills: {len(returned)} messages, each stored once; the last process sent {recovered}, "
            f"{proxy.posts} posts, {again} messages were sent again or failed",
            file=sys.stderr,
        )
