"""`python -m logstream`, and the scripts of docs/clients.md."""

from __future__ import annotations

import difflib
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from logstream.__main__ import _LEVELS

from .support import PATIENCE, Case, Server, until

PAGE = Path(__file__).resolve().parents[3] / "docs" / "clients.md"


def post(server: Server, site: str, text: str, timestamp: float) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    body = json.dumps({"site": site, "log_message": text, "log_level": "warn", "timestamp": timestamp})
    connection.request("POST", "/newlog", body)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()


class Send(Case):
    def run_send(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "logstream", "send", *arguments],
            input=text.encode("utf-8", "surrogateescape"),
            capture_output=True,
            timeout=PATIENCE,
        )

    def test_a_message_is_stored_when_it_ends(self) -> None:
        done = self.run_send(self.server.url, self.site, "Dome opened", "--level", "WARN")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"", b""))
        (message,) = self.server.history(self.site)
        self.assertEqual((message["message"], message["log_level"]), ("Dome opened", "warning"))

    def test_each_line_of_the_input_is_a_message_however_many(self) -> None:
        proxy = self.proxy(lambda number, body: 200)
        lines = [f"line {number} °C" for number in range(3000)]
        done = self.run_send(proxy.url, self.site, "-", text="\n".join(lines) + "\n\nnot UTF-8 \udcb0\r\nlast")
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertEqual(proxy.texts(), [*lines, "not UTF-8 \\xb0", "last"])

    def test_what_is_not_stored_is_told(self) -> None:
        done = self.run_send(self.server.url, "x" * 1025, "text")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"1 not stored, refused: 400", done.stderr)
        done = self.run_send("http://127.0.0.1:1", self.site, "text", "--timeout", "0.3")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"1 not stored, not sent at exit", done.stderr)
        done = self.run_send("127.0.0.1", self.site, "text")
        self.assertEqual(done.returncode, 2)

    def test_an_unknown_level_is_refused_and_each_of_the_contract_is_known(self) -> None:
        done = self.run_send(self.server.url, self.site, "text", "--level", "loud")
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"'loud'; expected debug, info, warning, error or critical", done.stderr)
        self.assertEqual(self.server.texts(self.site), [])
        table = PAGE.with_name("contract.md").read_text("utf-8").split("\n### Levels\n", 1)[1].split("\n#", 1)[0]
        names = re.findall(r"`([a-z]+)`", table)
        self.assertGreater(len(names), 20)
        self.assertEqual(set(names), set(_LEVELS.split()))

    def test_with_a_spool_the_next_one_sends_what_is_left(self) -> None:
        server = self.own_server()
        server.kill()
        done = self.run_send(server.url, self.site, "left", "--timeout", "0.2", "--spool", self.folder)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"1 message waits in " + self.folder.encode(), done.stderr)
        server.start()
        done = self.run_send(server.url, self.site, "next", "--spool", self.folder)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertEqual(server.texts(self.site), ["left", "next"])


class Tail(Case):
    def tail(self, *arguments: str) -> list[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "logstream", "tail", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
        lines: list[str] = []
        output = process.stdout
        assert output

        def read() -> None:
            with output:
                for line in output:
                    lines.append(line.rstrip("\n"))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        self.addCleanup(thread.join, PATIENCE)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return lines

    def test_history_and_what_comes_are_shown_each_once_over_a_restart(self) -> None:
        server = self.own_server()
        now = time.time()
        post(server, self.site, "first\n\x1b[31mred", now - 10)
        lines = self.tail(server.url, self.site)
        until(lambda: len(lines) == 1, lambda: lines)
        self.assertRegex(lines[0], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z warning  first\\n\\x1b\[31mred$")
        for number in range(5):
            post(server, self.site, f"live {number} °", now + number / 1000)
        until(lambda: len(lines) == 6, lambda: lines)
        server.kill()
        server.start()
        # An older time than what was shown, and perhaps before it is connected again.
        post(server, self.site, "in between", now - 5)
        until(lambda: len(lines) == 7, lambda: lines)
        post(server, self.site, "after", now + 1)
        until(lambda: len(lines) == 8, lambda: lines)
        self.assertEqual(
            [line[37:] for line in lines[1:]], [*(f"live {number} °" for number in range(5)), "in between", "after"]
        )

    def test_it_begins_as_far_back_as_it_is_told(self) -> None:
        now = time.time()
        for seconds in (500, 300, 100):
            post(self.server, self.site, f"{seconds} s ago", now - seconds)
        lines = self.tail(self.server.url, self.site, "--since", "400")
        until(lambda: len(lines) == 2, lambda: lines)
        self.assertEqual([line[37:] for line in lines], ["300 s ago", "100 s ago"])

    def test_a_long_history_is_read_page_by_page(self) -> None:
        now = time.time()
        for number in range(45):
            post(self.server, self.site, f"{number:3} " + "x" * 120_000, now - 100 + number)
        lines = self.tail(self.server.url, self.site)
        until(lambda: len(lines) == 45, lambda: len(lines))
        self.assertEqual([int(line[37:40]) for line in lines], list(range(45)))

    def test_a_site_that_is_refused_ends_it(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "logstream", "tail", self.server.url, "x" * 1025],
            capture_output=True,
            timeout=PATIENCE,
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"refused with 400", done.stderr)


REQUESTS = """
import urllib.request
def post(url, data, timeout):
    return urllib.request.urlopen(url, data.encode(), timeout)
"""


class Page(Case):
    """docs/clients.md: the present code of the telescopes, with one line changed."""

    def setUp(self) -> None:
        super().setUp()
        text = PAGE.read_text("utf-8").split("## Python", 1)[1].split("\n## ", 1)[0]
        self.blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)

    def run_block(self, block: str, *more: str) -> None:
        block = block.replace("http://127.0.0.1:3000", self.server.url).replace('"tst"', repr(self.site))
        block = block.replace("/var/lib/observatory/spool", self.folder)
        process = self.script("\n".join([block, *more]), self.server.url, self.site, cwd=self.folder)
        _, errors = process.communicate(timeout=PATIENCE)
        # `basicConfig` of the handler's block shows what is logged here too.
        self.assertEqual((process.returncode, errors.replace("INFO:root:logged\n", "")), (0, ""))

    def test_one_line_changes_and_the_same_is_stored(self) -> None:
        before, after = self.blocks[:2]
        changes = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]
        self.assertEqual(changes, ["- import requests", "+ import logstream as requests"])
        calls = ["for n in range(3): tell(f'Exposure {n}')", "tell(ValueError('Clouds'), 'WARN')"]
        # The tests need no other package, so this stands for `requests`.
        Path(self.folder, "requests.py").write_text(REQUESTS)
        self.run_block(before, *calls)
        old = self.server.history(self.site)
        self.site += "-after"
        self.run_block(after, *calls)
        new = self.server.history(self.site)
        self.assertEqual(len(old), 4)
        self.assertEqual(
            [(message["message"], message["log_level"]) for message in new],
            [(message["message"], message["log_level"]) for message in old],
        )

    def test_the_other_examples_do_what_they_say(self) -> None:
        new, handler, spool = self.blocks[2:]
        self.run_block(new)
        self.run_block(handler, "logging.info('logged')")
        self.run_block(spool.replace("logstream.", "import logstream; logstream.", 1), "logstream.send('spooled')")
        self.assertEqual(self.server.texts(self.site), ["Dome opened", "Clouds from the west", "logged", "spooled"])

    def test_the_answer_of_post_can_be_used_like_that_of_requests(self) -> None:
        text = """
import json
a = logstream.post(url + "/newlog", json.dumps({"site": site, "log_message": 5, "log_level": None}), timeout=5)
assert a.ok and a and a.status_code == 202 and a.text == "Queued."
a.raise_for_status()
assert logstream.post(url, json={"site": site, "log_message": "as json"}).ok
assert logstream.post(url, {"site": site, "log_message": "as a form"}, headers={"X": "y"}).ok
message = {"site": site, "log_message": "x"}
for wrong in ((url, "no JSON"), (url, None), ("nowhere", message), (None, []), (url, {"log_message": 1})):
    b = logstream.post(*wrong)
    b.raise_for_status()
    assert not b.ok, wrong
assert not logstream.send("before configure")
assert logstream.flush(60)
"""
        process = self.script(text, self.server.url, self.site)
        _, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 0, errors)
        self.assertEqual(self.server.texts(self.site), ["5", "as json", "as a form"])

    def test_the_variables_add_a_key_and_a_spool(self) -> None:
        proxy = self.proxy()
        environment = {**os.environ, "LOGSTREAM_KEY": "secret", "LOGSTREAM_SPOOL": self.folder}
        text = "logstream.post(url, {'site': site, 'log_message': 'x'})\nprint(os.listdir(rest[0]))"
        process = self.script(text, proxy.url, self.site, self.folder, env=environment)
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 0, errors)
        self.assertIn(".spool", output)
        self.assertEqual(proxy.headers[0]["Authorization"], "Bearer secret")
