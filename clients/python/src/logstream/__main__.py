"""`python -m logstream send` and `tail`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import datetime, timezone
from typing import Any, Iterator
from urllib.parse import urlsplit

from . import _tail
from ._client import Client
from ._http import base_url

_QUEUE = 1000
# Those that the server knows. It takes any other for `info`.
_LEVELS = (
    "debug trace verbose fine finer finest info information informational notice config warning warn error err severe "
    "critical crit fatal alert emerg emergency panic"
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m logstream", description="Sends and shows an observatory's messages."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    send = commands.add_parser(
        "send",
        help="send a message, or each line of the standard input",
        epilog="A key is read from the variable LOGSTREAM_KEY. Exits with 0 once all is stored, else with 1.",
    )
    send.add_argument("url", help="the deployment's address")
    send.add_argument("site")
    send.add_argument("text", help="- for the lines of the standard input")
    send.add_argument("--level", type=_level, default="info", help="such as info, the default, or warning")
    send.add_argument(
        "--spool", metavar="FOLDER", help="keep the messages there until they are stored, also those of the run before"
    )
    send.add_argument(
        "--timeout", type=float, default=30, metavar="SECONDS", help="how long to try at the end (default: 30)"
    )

    tail = commands.add_parser("tail", help="show a site's messages as they come")
    tail.add_argument("url", help="the deployment's address")
    tail.add_argument("site")
    tail.add_argument("--websocket", metavar="URL", help="the WebSocket's address, if it is another one")
    tail.add_argument(
        "--since", type=float, default=3600, metavar="SECONDS", help="how far back to begin (default: 3600)"
    )

    options = parser.parse_args(arguments)
    try:
        return _send(options) if options.command == "send" else _show(options)
    except ValueError as error:
        parser.error(str(error))
    except _tail.Refused as error:
        print(f"logstream: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone. Python would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _level(name: str) -> str:
    if name.strip().lower() not in _LEVELS.split():
        raise argparse.ArgumentTypeError(f"{name!r}; expected debug, info, warning, error or critical")
    return name


def _send(options: argparse.Namespace) -> int:
    client = Client(options.url, options.site, spool=options.spool, queue_size=_QUEUE, flush_timeout=options.timeout)
    try:
        for text in _lines() if options.text == "-" else [options.text]:
            # Here it is right to wait: the input waits too.
            while client.stats.queued >= _QUEUE:
                time.sleep(0.05)
            client.send(text, options.level)
    finally:
        is_empty = client.close()
    # What waits in the spool, the client has said.
    stats = client.stats
    if is_empty and not stats.dropped:
        return 0
    for reason, count in stats.dropped.items():
        print(f"logstream: {count} not stored, {reason}; {stats.last_error}", file=sys.stderr)
    return 1


def _lines() -> Iterator[str]:
    for line in sys.stdin.buffer:
        text = line.rstrip(b"\r\n").decode("utf-8", "backslashreplace")
        if text:
            yield text


def _show(options: argparse.Namespace) -> int:
    base = base_url(options.url)
    websocket = options.websocket or base._replace(scheme=base.scheme.replace("http", "ws")).geturl()
    if urlsplit(websocket).scheme not in ("ws", "wss") or not urlsplit(websocket).hostname:
        raise ValueError(f"expected an address such as ws://127.0.0.1:3000, not {websocket!r}")

    def tell(line: str) -> None:
        print(f"logstream: {line}", file=sys.stderr, flush=True)

    for message in _tail.Tail(base, websocket, options.site, options.since, tell).messages():
        print(_line(message), flush=True)
    return 0


def _line(message: dict[str, Any]) -> str:
    try:
        seconds = float(message.get("id") or message.get("timestamp") or 0)
        shown = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except (ValueError, OverflowError, OSError):
        shown = str(message.get("id"))
    # What somebody sent must not reach the terminal as a command to it.
    text = "".join(each if each.isprintable() else repr(each)[1:-1] for each in str(message.get("message")))
    line = f"{shown} {message.get('log_level')!s:8} {text}"
    return line.encode(sys.stdout.encoding or "utf-8", "replace").decode(sys.stdout.encoding or "utf-8")


if __name__ == "__main__":
    sys.exit(main())
