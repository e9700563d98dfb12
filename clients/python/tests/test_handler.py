"""The handler for `logging`."""

from __future__ import annotations

import logging
import logging.config
import threading
import time

import logstream

from .support import PATIENCE, Case, until


class Logging(Case):
    def logger(self, handler: logging.Handler) -> logging.Logger:
        logger = logging.Logger("telescope")
        logger.addHandler(handler)
        self.addCleanup(handler.close)
        return logger

    def test_a_record_arrives_with_its_text_level_and_time(self) -> None:
        handler = logstream.Handler(self.server.url, self.site)
        logger = self.logger(handler)
        records: list[logging.LogRecord] = []
        logger.addFilter(lambda record: not records.append(record))  # type: ignore[func-returns-value]
        for level in (5, 10, 19, 20, 25, 30, 40, 50, 60):
            logger.log(level, "at %d %s", level, "°C")
        self.flush(handler.client)
        history = self.server.history(self.site)
        self.assertEqual([message["message"] for message in history], [record.getMessage() for record in records])
        self.assertEqual(
            [message["log_level"] for message in history],
            ["debug", "debug", "debug", "info", "info", "warning", "error", "critical", "critical"],
        )
        for message, record in zip(history, records):
            self.assertAlmostEqual(message["timestamp"], record.created, delta=0.0001)

    def test_a_traceback_and_the_stack_are_kept(self) -> None:
        handler = logstream.Handler(self.server.url, self.site)
        logger = self.logger(handler)
        try:
            raise RuntimeError("the dome is stuck")
        except RuntimeError:
            logger.exception("Closing failed")
        logger.warning("Here", stack_info=True)
        self.flush(handler.client)
        first, second = self.server.texts(self.site)
        self.assertTrue(first.startswith("Closing failed\nTraceback (most recent call last):\n"), first)
        self.assertTrue(first.endswith("RuntimeError: the dome is stuck"), first)
        self.assertIn("\nStack (most recent call last):\n", second)

    def test_identical_records_of_one_instant_are_all_stored(self) -> None:
        handler = logstream.Handler(self.server.url, self.site)
        for _ in range(5):
            record = logging.LogRecord("telescope", logging.INFO, "", 1, "same", (), None)
            record.created = 1_700_000_000.25
            handler.handle(record)
        self.flush(handler.client)
        self.assertEqual(
            [message["id"][-6:] for message in self.server.history(self.site)], [f"25000{n}" for n in range(5)]
        )
        handler.close()

    def test_what_cannot_be_formatted_is_sent_as_it_is_and_nothing_is_raised(self) -> None:
        class Broken:
            def __str__(self) -> str:
                raise RuntimeError("no")

            __repr__ = __str__

        handler = logstream.Handler(self.server.url, self.site)
        logger = self.logger(handler)
        logger.info("%d degrees", "no number")
        logger.info("%s", Broken())
        logger.info(Broken())
        logger.info("after")
        self.flush(handler.client)
        texts = self.server.texts(self.site)
        self.assertIn("'%d degrees' (not formatted: TypeError: ", texts[0])
        self.assertEqual(texts[-1], "after")

    def test_the_clients_own_records_are_not_sent(self) -> None:
        proxy = self.proxy(lambda number, body: 400)
        root = logging.getLogger()
        handler = logstream.Handler(proxy.url, self.site)
        root.addHandler(handler)
        self.addCleanup(root.removeHandler, handler)
        with self.assertLogs("logstream"):
            logging.getLogger("telescope").error("refused")
            self.flush(handler.client)
            until(lambda: handler.client.stats.dropped)
            logging.getLogger("logstream").error("not for the handler")
            logging.getLogger("logstream.more").error("nor this")
        logging.getLogger("logstreams").error("but this")
        self.flush(handler.client)
        handler.close()
        self.assertEqual(proxy.texts(), ["refused", "but this"])

    def test_trouble_is_printed_where_no_other_handler_would_show_it(self) -> None:
        proxy = self.proxy(lambda number, body: 400)
        text = "logging.getLogger().addHandler(logstream.Handler(url, site))\nlogging.error('refused')"
        process = self.script(text, proxy.url, self.site)
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, output), (0, ""))
        self.assertRegex(errors, r"^logstream: 127.0.0.1:\d+ refuses messages: 400 as planned\n$")

    def test_what_was_logged_before_the_end_arrives_and_no_flush_of_logging_waits(self) -> None:
        text = """
logging.basicConfig(handlers=[logstream.Handler(url, site)], level="INFO", format="%(levelname)s %(message)s")
for n in range(20): logging.info(n)
began = time.monotonic()
logging.getLogger().handlers[0].flush()
assert time.monotonic() - began < 1
logging.shutdown()
"""
        process = self.script(text, self.server.url, self.site)
        _, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 0, errors)
        self.assertEqual(self.server.texts(self.site), [f"INFO {number}" for number in range(20)])

    def test_the_configuration_of_logging_can_name_it(self) -> None:
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "handlers": {"telescope": {"class": "logstream.Handler", "url": self.server.url, "site": self.site}},
                "loggers": {"configured": {"handlers": ["telescope"], "level": "INFO"}},
            }
        )
        logger = logging.getLogger("configured")
        logger.info("by name")
        (handler,) = logger.handlers
        assert isinstance(handler, logstream.Handler)
        self.flush(handler.client)
        logger.removeHandler(handler)
        handler.close()
        self.assertEqual(self.server.texts(self.site), ["by name"])

    def test_a_server_that_hangs_holds_up_no_logger(self) -> None:
        proxy = self.proxy(lambda number, body: PATIENCE)
        handler = logstream.Handler(proxy.url, self.site, flush_timeout=0.1)
        logger = self.logger(handler)
        began = time.monotonic()

        def log() -> None:
            for number in range(200):
                logger.info(number)

        threads = [threading.Thread(target=log) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertLess(time.monotonic() - began, 5)
        self.assertEqual(handler.client.stats.queued, 800)
