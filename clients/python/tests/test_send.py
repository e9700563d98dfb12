"""What `send` promises while the server is well, slow, away or refusing."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import unittest
from typing import Any
from unittest import mock

import logstream
from logstream import Client

from .support import BINARY, PATIENCE, Case, unless, until

# How long the server is away; a minute with AWAY_SECONDS=60.
AWAY = float(os.environ.get("AWAY_SECONDS", "2"))


class Well(Case):
    def test_messages_arrive_in_order_over_one_connection(self) -> None:
        proxy = self.proxy()
        client = self.client(proxy.url)
        texts = [f"Exposure {number}: 30 s, “R” filter\n  -5.5 °C" for number in range(200)]
        before = time.time()
        for text in texts:
            self.assertTrue(client.send(text, "WARN"))
        self.flush(client)
        history = self.server.history(self.site)
        self.assertEqual([message["message"] for message in history], texts)
        self.assertEqual({message["log_level"] for message in history}, {"warning"})
        self.assertTrue(all(before - 0.001 <= message["timestamp"] <= time.time() for message in history))
        self.assertEqual(proxy.connections, 1)
        self.assertEqual(client.stats, (0, 200, 0, 0, {}, 0, ""))

    def test_the_address_may_have_a_path_and_end_in_newlog(self) -> None:
        for url in (self.server.url, self.server.url + "/", self.server.url + "/newlog"):
            client = self.client(url)
            client.send(url)
            self.flush(client)
        self.assertEqual(len(self.server.texts(self.site)), 3)

    def test_anything_can_be_sent_as_a_text(self) -> None:
        class Broken:
            def __str__(self) -> str:
                raise RuntimeError("no")

        client = self.client(self.server.url)
        for value in (1.5, None, {"ra": 1}, "file-\udcff", "a\0b\x1b[31m", "", "🔭", Broken()):
            self.assertTrue(client.send(value))
        self.flush(client)
        expected = ["1.5", "None", "{'ra': 1}", "file-\\udcff", "a\0b\x1b[31m", "", "🔭"]
        texts = self.server.texts(self.site)
        self.assertEqual(texts[:-1], expected)
        self.assertEqual(texts[-1], "<Broken that cannot be shown: RuntimeError>")
        self.assertEqual(client.stats.dropped, {})

    def test_a_level_is_a_name_or_a_number(self) -> None:
        client = self.client(self.server.url)
        for level in ("INFO", "Warn", "fatal", "nonsense", 10, 20, 30, 40, 50, 5, 35, 99, None):
            client.send("a text", level)
        self.flush(client)
        self.assertEqual(
            [message["log_level"] for message in self.server.history(self.site)],
            [
                "info",
                "warning",
                "critical",
                "info",
                "debug",
                "info",
                "warning",
                "error",
                "critical",
                "debug",
                "warning",
                "critical",
                "info",
            ],
        )

    def test_a_timestamp_that_is_given_is_kept_and_a_wrong_one_is_the_present(self) -> None:
        client = self.client(self.server.url)
        for timestamp in (1604514063.418301, "1604514063.5", 1604514064):
            client.send("given", timestamp=timestamp)
        wrong: list[object] = [1604514063418.0 * 1000, -1, float("nan"), float("inf"), "yesterday", object(), 10**400]
        for other in wrong:
            self.assertTrue(client.send("wrong", timestamp=other))
        self.flush(client)
        history = self.server.history(self.site)
        self.assertEqual(
            [message["timestamp"] for message in history[:3]], [1604514063.418301, 1604514063.5, 1604514064]
        )
        self.assertEqual(len(history), 3 + len(wrong))
        self.assertTrue(all(abs(message["timestamp"] - time.time()) < PATIENCE for message in history[3:]))

    def test_a_timestamp_that_is_not_taken_is_shown(self) -> None:
        wrong: dict[object, str] = {
            1604514063418: "1604514063418 (milliseconds?); the present",
            "yesterday": "'yesterday'; the present",
        }
        for timestamp, line in wrong.items():
            client = self.client(self.server.url)
            with self.assertLogs("logstream", "WARNING") as logs:
                for _ in range(2):
                    self.assertTrue(client.send("wrong", timestamp=timestamp))
                client.send("wrong", timestamp=-1)
                self.flush(client)
                until(lambda: logs.output)
            self.assertEqual(len(logs.output), 1)
            self.assertIn(line, logs.output[0])

    def test_identical_messages_of_one_instant_are_all_stored(self) -> None:
        client = self.client(self.server.url)
        with mock.patch("time.time_ns", return_value=1_700_000_000_000_000_999):
            for _ in range(20):
                client.send("same")
        self.flush(client)
        self.assertEqual(
            [message["id"] for message in self.server.history(self.site)],
            [f"1700000000.{number:06d}" for number in range(20)],
        )

    def test_the_order_survives_a_clock_that_goes_back_a_little(self) -> None:
        client = self.client(self.server.url)
        start = 1_700_000_000_000_000_000
        for number, seconds in enumerate((0, 1, -2, -30, 0.5, 2)):
            with mock.patch("time.time_ns", return_value=start + int(seconds * 1e9)):
                client.send(number)
        self.flush(client)
        self.assertEqual(self.server.texts(self.site), list("012345"))

    def test_a_clock_that_was_an_hour_ahead_is_not_followed_for_ever(self) -> None:
        client = self.client(self.server.url)
        start = 1_700_000_000_000_000_000
        for seconds in (3600, 3600, 0, 0, 3600):
            with mock.patch("time.time_ns", return_value=start + seconds * 10**9):
                client.send("same")
        self.flush(client)
        # No time is given twice: the last message is not taken for the first.
        self.assertEqual(
            [message["id"] for message in self.server.history(self.site)],
            ["1700000000.000000", "1700000000.000001", "1700003600.000000", "1700003600.000001", "1700003600.000002"],
        )

    def test_two_threads_lose_nothing_and_keep_their_order(self) -> None:
        client = self.client(self.server.url)
        threads = [
            threading.Thread(target=lambda name=name: [client.send(f"{name} {number}") for number in range(150)])
            for name in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.flush(client)
        texts = self.server.texts(self.site)
        for name in "ab":
            self.assertEqual([text for text in texts if text[0] == name], [f"{name} {number}" for number in range(150)])
        self.assertEqual(len(texts), 300)

    @unittest.skipIf(sys.platform == "win32", "Windows has no such signals")
    def test_a_signals_handler_may_send_in_the_middle_of_a_send(self) -> None:
        client = self.client(self.server.url, spool=self.folder)
        nested = []

        def handler(*_: object) -> None:
            nested.append(client.send("from the handler"))

        before = signal.signal(signal.SIGALRM, handler)
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.002)
        for number in range(300):
            client.send(number)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.flush(client)
        texts = self.server.texts(self.site)
        self.assertEqual([text for text in texts if text.isdigit()], [str(number) for number in range(300)])
        self.assertEqual(texts.count("from the handler"), len(nested))
        self.assertEqual(client.stats.dropped, {})


class Away(Case):
    def test_what_is_sent_while_the_server_is_away_arrives_once_it_is_back(self) -> None:
        server = self.own_server()
        client = self.client(server.url, backoff=(0.05, max(0.3, AWAY / 30)))
        client.send("before")
        self.flush(client)
        server.kill()
        sent = ["before"]
        slowest = 0.0
        end = time.monotonic() + AWAY
        while time.monotonic() < end:
            began = time.monotonic()
            sent.append(f"while away {len(sent)}")
            self.assertTrue(client.send(sent[-1]))
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.02)
        server.start()
        self.flush(client)
        self.assertEqual(server.texts(self.site), sent)
        self.assertLess(slowest, 1)
        self.assertEqual(client.stats.sent, len(sent))
        self.assertGreater(client.stats.retried, 0)

    def test_the_program_is_not_held_up_by_a_server_that_does_not_answer(self) -> None:
        proxy = self.proxy(lambda number, body: PATIENCE)
        client = self.client(proxy.url)
        slowest = 0.0
        for number in range(1000):
            began = time.monotonic()
            client.send(number)
            _ = client.stats
            slowest = max(slowest, time.monotonic() - began)
        self.assertLess(slowest, 1)
        began = time.monotonic()
        self.assertFalse(client.close(0.2))
        self.assertLess(time.monotonic() - began, 2)
        self.assertEqual(client.stats.dropped, {"not sent at exit": 1000})

    def test_a_slow_server_gets_everything_once_and_in_order(self) -> None:
        proxy = self.proxy(lambda number, body: 0.05)
        client = self.client(proxy.url)
        for number in range(20):
            client.send(number)
        self.flush(client)
        self.assertEqual(self.server.texts(self.site), [str(number) for number in range(20)])
        self.assertEqual(client.stats.retried, 0)

    def test_an_answer_that_comes_too_late_is_asked_for_again_and_stored_once(self) -> None:
        proxy = self.proxy(lambda number, body: 0.6 if number < 2 else None)
        client = self.client(proxy.url, timeout=0.2)
        client.send("slow")
        self.flush(client)
        self.assertEqual(client.stats.retried, 2)
        until(lambda: len(proxy.requests) == 3)
        time.sleep(0.8)  # until the late ones have been forwarded
        self.assertEqual(self.server.texts(self.site), ["slow"])

    def test_429_and_503_are_tried_again_with_the_same_body_after_the_time_they_say(self) -> None:
        answers: dict[int, Any] = {
            0: (429, {"Retry-After": "1"}),
            1: 503,
            2: 500,
            3: 408,
            4: (503, {"Retry-After": "soon"}),
        }
        proxy = self.proxy(lambda number, body: answers.get(number))
        client = self.client(proxy.url)
        client.send("first")
        until(lambda: proxy.posts > 0)
        client.send("second")
        until(lambda: client.stats.queued == 0, lambda: client.stats)
        self.assertEqual(proxy.texts(), ["first"] * 6 + ["second"])
        self.assertTrue(all(request == proxy.requests[0] for request in proxy.requests[:6]))
        self.assertGreaterEqual(proxy.times[1] - proxy.times[0], 1)
        self.assertEqual(client.stats[:3], (0, 2, 5))
        self.assertEqual(self.server.texts(self.site), ["first", "second"])

    def test_what_has_piled_up_goes_in_few_requests_in_order(self) -> None:
        gate = threading.Event()
        proxy = self.proxy(unless(gate))
        client = self.client(proxy.url)
        for number in range(250):
            client.send(number)
        until(lambda: proxy.posts > 2)
        before = proxy.posts
        gate.set()
        self.flush(client)
        self.assertEqual(self.server.texts(self.site), [str(number) for number in range(250)])
        # One or two more that failed, one alone, and the others a hundred at a time.
        self.assertLessEqual(proxy.posts - before, 7)
        self.assertEqual((client.stats.sent, client.stats.dropped), (250, {}))

    def test_lost_answers_and_cut_connections_store_once(self) -> None:
        plan = ["lose", "cut", None, "lose", "lose", None, "cut", 503]
        proxy = self.proxy(lambda number, body: plan[number % len(plan)])
        client = self.client(proxy.url, backoff=(0.001, 0.002))
        for number in range(50):
            client.send(number)
        self.flush(client)
        self.assertEqual(self.server.texts(self.site), [str(number) for number in range(50)])

    def test_an_idle_connection_that_the_server_closed_is_no_failure(self) -> None:
        server = self.own_server()
        client = self.client(server.url)
        client.send("before")
        self.flush(client)
        server.kill()
        server.start()
        client.send("after")
        self.flush(client)
        self.assertEqual(server.texts(self.site), ["before", "after"])
        self.assertEqual(client.stats.retried, 0)

    def test_a_full_queue_drops_the_newest_and_says_so(self) -> None:
        server = self.own_server()
        server.kill()
        client = self.client(server.url, queue_size=10)
        with self.assertLogs("logstream", "WARNING") as logs:
            self.assertEqual([client.send(number) for number in range(25)], [True] * 10 + [False] * 15)
            until(lambda: any("the queue is full" in line for line in logs.output))
        self.assertEqual(client.stats.dropped, {"queue full": 15})
        server.start()
        self.flush(client)
        self.assertTrue(client.send("after"))
        self.flush(client)
        self.assertEqual(server.texts(self.site), [*map(str, range(10)), "after"])

    def test_an_outage_is_told_once_and_so_is_its_end(self) -> None:
        proxy = self.proxy(lambda number, body: 503 if number < 8 else None)
        client = self.client(proxy.url)
        with self.assertLogs("logstream", "WARNING") as logs:
            for number in range(3):
                client.send(number)
            self.flush(client)
            until(lambda: len(logs.output) == 2)
        self.assertIn("takes no messages, trying on: 503 as planned", logs.output[0])
        self.assertIn("takes messages again", logs.output[1])


class Refused(Case):
    def test_a_400_is_counted_and_not_sent_again(self) -> None:
        proxy = self.proxy()
        client = self.client(proxy.url)
        with self.assertLogs("logstream", "WARNING") as logs:
            client.send("before")
            client.send("refused", site="x" * 1025)
            client.send("refused", site="x" * 1026)
            client.send("after")
            self.flush(client)
            until(lambda: logs.output)
        # Perhaps once together, and then each once alone.
        self.assertLessEqual(proxy.posts, 5)
        self.assertEqual(self.server.texts(self.site), ["before", "after"])
        stats = client.stats
        self.assertEqual((stats.sent, stats.retried, stats.dropped), (2, 0, {"refused: 400": 2}))
        self.assertIn("'site'", stats.last_error)
        self.assertEqual(len(logs.output), 1)

    def test_a_wrong_message_among_those_that_wait_costs_only_itself(self) -> None:
        gate = threading.Event()
        proxy = self.proxy(unless(gate))
        client = self.client(proxy.url)
        for number in range(120):
            client.send(number, site="x" * 1025 if number == 60 else None)
        gate.set()
        self.flush(client)
        self.assertEqual(self.server.texts(self.site), [str(number) for number in range(120) if number != 60])
        self.assertEqual(client.stats.dropped, {"refused: 400": 1})

    def test_a_message_that_is_too_large_is_dropped_and_the_next_one_arrives(self) -> None:
        client = self.client(self.server.url)
        self.assertFalse(client.send("x" * 131_073))
        self.assertTrue(client.send("x" * 131_072))
        self.assertTrue(client.send("small"))
        self.flush(client)
        self.assertEqual(self.server.texts(self.site), ["small"])
        self.assertEqual(client.stats.dropped, {"too large": 1, "refused: 413": 1})

    def test_another_path_is_refused_with_404(self) -> None:
        proxy = self.proxy(lambda number, body: 404)
        client = self.client(proxy.url)
        client.send("lost")
        self.flush(client)
        self.assertEqual(client.stats.dropped, {"refused: 404": 1})
        self.assertEqual(len(proxy.requests), 1)

    def test_a_key_is_sent_and_without_it_the_message_is_refused(self) -> None:
        made = subprocess.run(
            [BINARY, "key", "new", "camera", "--site", self.site], check=True, capture_output=True, text=True
        )
        keys = os.path.join(self.folder, "keys")
        with open(keys, "w") as file:
            file.write(made.stdout)
        key = next(line.split()[-1] for line in made.stderr.splitlines() if line.startswith("key: "))
        server = self.own_server("--publisher-keys", keys)
        without = self.client(server.url)
        without.send("without")
        self.flush(without)
        self.assertEqual(without.stats.dropped, {"refused: 401": 1})
        with_key = self.client(server.url, key=key)
        with_key.send("with")
        with_key.send("elsewhere", site="other")
        self.flush(with_key)
        self.assertEqual(with_key.stats.dropped, {"refused: 403": 1})
        with mock.patch.dict(os.environ, {"LOGSTREAM_KEY": key}):
            from_environment = self.client(server.url)
        from_environment.send("from the environment")
        self.flush(from_environment)
        self.assertEqual(server.texts(self.site), ["with", "from the environment"])

    def test_a_message_without_a_site_and_one_after_the_end_are_dropped(self) -> None:
        client = self.client(self.server.url, site=None)
        self.assertFalse(client.send("nowhere"))
        self.assertTrue(client.close())
        self.assertFalse(client.send("too late"))
        self.assertEqual(client.stats.dropped, {"invalid": 1, "client closed": 1})

    def test_wrong_arguments_of_a_client_are_told_at_once(self) -> None:
        for url in ("", "127.0.0.1:3000", "ftp://127.0.0.1", "http://", "http://127.0.0.1:port", "http://127.0.0.1/ä"):
            with self.assertRaises(ValueError, msg=url):
                Client(url)
        with self.assertRaises(ValueError):
            Client(self.server.url, key="two\nlines")
        for site in (5, "", b"tst"):
            wrong: Any = site
            with self.assertRaisesRegex(ValueError, "expected a site such as 'tst', not "):
                logstream.configure(self.server.url, wrong)
            with self.assertRaisesRegex(ValueError, "expected a site such as 'tst', not "):
                logstream.Handler(self.server.url, wrong)
        # `send` may name the site, a record of `logging` cannot.
        anywhere = self.client(self.server.url, site=None)
        with self.assertRaises(ValueError):
            logstream.Handler(self.server.url)
        with self.assertRaises(ValueError):
            logstream.Handler(client=anywhere)


class ProxyOfTheEnvironment(Case):
    def test_requests_go_through_the_proxy_that_the_environment_names(self) -> None:
        proxy = self.proxy(lambda number, body: 200)
        with mock.patch.dict(os.environ, {"http_proxy": proxy.url.replace("http://", "http://user:p%40ss@")}):
            client = self.client("http://logs.example/prod")
            client.send("through the proxy")
            self.flush(client)
        self.assertEqual(proxy.texts(), ["through the proxy"])
        self.assertEqual(proxy.headers[0]["Host"], "logs.example")
        self.assertEqual(proxy.headers[0]["Proxy-Authorization"], "Basic dXNlcjpwQHNz")


class Module(Case):
    def test_configure_and_send(self) -> None:
        client = logstream.configure(self.server.url, self.site)
        self.addCleanup(client.close)
        self.assertTrue(logstream.send("Dome opened"))
        self.assertTrue(logstream.send("Clouds", logging.WARNING))
        self.assertTrue(logstream.flush(PATIENCE))
        self.assertEqual(self.server.texts(self.site), ["Dome opened", "Clouds"])
        self.assertEqual(logstream.stats()[self.server.url].sent, 2)

    def test_the_numbers_of_clients_with_one_address_are_added(self) -> None:
        url = self.proxy().url
        client = logstream.configure(url, self.site)
        self.addCleanup(client.close)
        self.assertTrue(logstream.send("of configure"))
        self.assertFalse(logstream.send("of configure", site=5))  # type: ignore[arg-type]
        for key in ("one", "two"):
            headers = {"Authorization": f"Bearer {key}"}
            self.assertTrue(
                logstream.post(url + "/newlog", {"site": self.site, "log_message": key}, headers=headers).ok
            )
        self.assertFalse(logstream.post(url, {"site": self.site}).ok)
        self.assertTrue(logstream.flush(PATIENCE))
        numbers = logstream.stats()[url]
        self.assertEqual(numbers[:6], (0, 3, 0, 0, {"invalid": 2}, 0))
        self.assertIn("a site must be a string", numbers.last_error)


class Post(Case):
    """`logstream.post`, which takes what `requests.post` takes."""

    def setUp(self) -> None:
        super().setUp()
        # An address of its own has numbers of its own.
        self.url = self.proxy().url

    def stored(self) -> list[str]:
        self.assertTrue(logstream.flush(PATIENCE))
        return self.server.texts(self.site)

    def messages(self, *texts: object) -> list[dict[str, object]]:
        return [{"site": self.site, "log_message": text} for text in texts]

    def dropped(self, body: object, line: str) -> None:
        """Posts what is dropped, and finds the line about it in the log."""
        with self.assertLogs("logstream", "WARNING") as logs:
            answer = logstream.post(self.url, json=body)
            until(lambda: logs.output)
        self.assertEqual((answer.ok, answer.status_code, answer.json()), (False, 507, {"message": "Dropped."}))
        self.assertIn(line, logs.output[0])

    def test_each_message_of_an_array_is_queued(self) -> None:
        self.assertTrue(logstream.post(self.url, json=self.messages("one", "two")).ok)
        self.assertTrue(logstream.post(self.url, data=json.dumps(self.messages("three", "four"))).ok)
        self.assertTrue(logstream.post(self.url, json.dumps(self.messages(*range(120))).encode()).ok)
        self.assertEqual(self.stored(), ["one", "two", "three", "four", *map(str, range(120))])

    def test_a_form_is_taken_in_each_way_that_requests_takes_it(self) -> None:
        self.assertTrue(logstream.post(self.url, {"site": self.site, "log_message": "a mapping"}).ok)
        self.assertTrue(logstream.post(self.url, [("site", self.site), ("log_message", "pairs")]).ok)
        self.assertTrue(logstream.post(self.url, f"site={self.site}&log_message=a+text%21").ok)
        self.assertEqual(self.stored(), ["a mapping", "pairs", "a text!"])

    def test_what_is_no_message_is_told_and_costs_no_other(self) -> None:
        self.dropped("Dome opened", "not a JSON object or a form with 'site' and 'log_message': 'Dome opened'")
        wrong: list[Any] = [None, 5, [], "5", '{"site": "a=b', b"\xff", object(), [[1]], "[]"]
        for body in wrong:
            self.assertFalse(logstream.post(self.url, body).ok, body)
        before, after = self.messages("before", "after")
        self.assertFalse(logstream.post(self.url, json=[before, "wrong", after]).ok)
        self.assertEqual(self.stored(), ["before", "after"])
        self.assertEqual(logstream.stats()[self.url].dropped, {"invalid": len(wrong) + 2})

    def test_a_message_without_a_text_is_dropped_and_the_field_is_named(self) -> None:
        self.dropped({"site": self.site, "message": "Dome opened"}, "no 'log_message', only 'site, message'")
        self.assertFalse(logstream.post(self.url, json={"site": self.site}).ok)
        self.assertFalse(logstream.post(self.url, json={"site": self.site, "log_message": None}).ok)
        # One that is given is stored, also if it is empty.
        self.assertTrue(logstream.post(self.url, json={"site": self.site, "log_message": ""}).ok)
        self.assertEqual(self.stored(), [""])

    def test_a_site_that_is_no_string_is_told_also_after_other_faults(self) -> None:
        self.dropped({"site": self.site}, "log_message")
        self.dropped({"site": 5, "log_message": "x"}, "a site must be a string, not 5")
        self.dropped({"log_message": "x"}, "a message has no site")
        self.assertEqual(self.stored(), [])

    def test_the_names_of_the_exceptions_of_requests_are_there(self) -> None:
        text = """
import logstream as requests
from logstream.exceptions import ConnectionError, HTTPError, Timeout
for name in ("ConnectionError", "HTTPError", "Timeout"):
    try:
        raise getattr(requests, name)("as requests would")
    except requests.exceptions.RequestException as error:
        assert isinstance(error, getattr(requests.exceptions, name)) and isinstance(error, OSError)
answer = requests.post(url, json={"site": site, "log_message": "x"})
answer.raise_for_status()
assert answer.json() == {"message": "Queued."}
"""
        process = self.script(text, self.url, self.site)
        _, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, errors), (0, ""))
