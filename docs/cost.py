#!/usr/bin/env python3
"""The prices and assumptions behind "Cost" in operations.md.

    docs/cost.py            prints the numbers of the page
    docs/cost.py --write    puts them into the page

tests/deployed/template_test.py checks that the page has them. Needs Python 3.10
or newer and nothing else.
"""

import sys
from pathlib import Path

PAGE = Path(__file__).with_name("operations.md")
BEGIN, END = "<!-- docs/cost.py --write: begin -->\n", "<!-- docs/cost.py --write: end -->\n"

# List prices of us-east-1 in November 2026, in dollars, without free tiers.
MILLION = 1_000_000
HTTP_REQUEST = 1.00 / MILLION  # for each 512 KB
WEBSOCKET_MESSAGE = 1.00 / MILLION  # for each 32 KB; connects cost nothing
CONNECTION_MINUTE = 0.25 / MILLION
CALL = 0.20 / MILLION
GB_SECOND = 13.3334 / MILLION  # arm64
WRITE_UNIT = 0.625 / MILLION
READ_UNIT = 0.125 / MILLION
STORED_GB_MONTH = 0.25 + 0.20  # the table and its point-in-time recovery
LOGGED_GB = 0.50
SENT_GB = 0.09
ALARM_METRIC = 0.10  # a month, for each metric of an alarm
METRIC = 0.30  # a month

# What a stage has, busy or not.
ALARM_METRICS = 20
METRICS = 13  # written by the functions and the canary, besides LoggedErrors
CANARY_CALLS = 8_640  # a month: every 5 min, each with a message of its own
CANARY_SECONDS = 1.0

# What is assumed of messages, calls and viewers.
MESSAGE_BYTES = 300  # as a frame, in recent-logs, and about as a row
RETENTION_MONTHS = 7 / 30.4
MEMORY_MB = {"newlog": 256, "broadcaster": 1024, "connect": 256, "disconnect": 256, "recent-logs": 512}
SECONDS = {"newlog": 0.020, "broadcaster": 0.030, "connect": 0.010, "disconnect": 0.010, "recent-logs": 0.020}
CALL_LOG_BYTES = 800
BROADCAST_LOG_BYTES = 450
METRICS_LOG_BYTES = 400  # in each call of newlog and the broadcaster
ACCESS_LOG_BYTES = 350  # of an HTTP request
# Two to four: the gateway closes a connection after 10 min without a frame and
# after 2 h in any case, so it depends on how quiet the site is.
RECONNECTS_AN_HOUR = 3
HOURS = 730
DAYS = 30.4

# The most that a stranger gets through in a second.
POSTS = 10_000  # all requests of an account, which frames count as
TABLE_UNITS = 40_000  # read and write units of an on-demand table, by default
LARGEST_MESSAGE = 131_072

GB = 1e9


def gb_seconds(*functions):
    return sum(MEMORY_MB[name] / 1024 * SECONDS[name] for name in functions)


def stage():
    return ALARM_METRICS * ALARM_METRIC + (METRICS + 1) * METRIC + canary()


def canary():
    """It connects, sends a message, gets the frame and leaves."""
    call = CALL + 256 / 1024 * CANARY_SECONDS * GB_SECOND + CALL_LOG_BYTES / GB * LOGGED_GB
    return CANARY_CALLS * (call + message() + frame() + reconnect())


def message():
    """A message sent and stored, without its frames."""
    return sum(message_parts().values())


def message_parts():
    logged = 2 * CALL_LOG_BYTES + BROADCAST_LOG_BYTES + 2 * METRICS_LOG_BYTES + ACCESS_LOG_BYTES
    return {
        "request": HTTP_REQUEST,
        "calls": 2 * CALL,
        "time": gb_seconds("newlog", "broadcaster") * GB_SECOND,
        "write": WRITE_UNIT,
        "connections": READ_UNIT,
        "log": logged / GB * LOGGED_GB,
        "stored": MESSAGE_BYTES / GB * RETENTION_MONTHS * STORED_GB_MONTH,
    }


def frame():
    return WEBSOCKET_MESSAGE + MESSAGE_BYTES / GB * SENT_GB


def viewer_hour():
    """Without the history."""
    return 60 * CONNECTION_MINUTE + RECONNECTS_AN_HOUR * reconnect()


def reconnect():
    """A connect, a disconnect, and a recent-logs that finds nothing."""
    # The site's row and the connection's own are written and deleted, in the
    # table and in its index.
    rows = 8 * WRITE_UNIT + READ_UNIT
    calls = 3 * CALL + gb_seconds("connect", "disconnect", "recent-logs") * GB_SECOND
    return rows + calls + HTTP_REQUEST + (3 * CALL_LOG_BYTES + ACCESS_LOG_BYTES) / GB * LOGGED_GB


def history_message():
    """A message read from the table and sent in recent-logs."""
    return MESSAGE_BYTES / 4096 * READ_UNIT + MESSAGE_BYTES / GB * SENT_GB


# As the formula has them; the examples are computed from these.
FACTORS = {
    "stages": round(stage(), 2),
    "M": round(message() * MILLION, 2),
    "F": round(frame() * MILLION, 2),
    "K": round(viewer_hour() * 1000, 3),
    "H": round(history_message() * MILLION, 3),
}


def example(sites, viewers, messages):
    """The amounts of a month, with all viewers and messages spread evenly."""
    viewer_hours = viewers * HOURS
    per_day = messages / sites / DAYS
    return {
        "stages": 1,
        "M": messages / MILLION,
        "F": messages * viewers / sites / MILLION,
        "K": viewer_hours / 1000,
        "H": viewer_hours * RECONNECTS_AN_HOUR * per_day / MILLION,
    }


def sum_of(amounts):
    terms = [round(FACTORS[name] * amount, 2) for name, amount in amounts.items()]
    return " + ".join(f"{term:.2f}" for term in terms) + f" = {sum(terms):.2f} dollars"


def stranger():
    """An hour of everything at its limit, by what it is paid for."""
    seconds = 3600
    return {
        "writes": seconds * TABLE_UNITS * WRITE_UNIT,
        "reads": seconds * TABLE_UNITS * (READ_UNIT + 4096 / GB * SENT_GB),
        "frames": seconds * POSTS * (LARGEST_MESSAGE / 32_768 * WEBSOCKET_MESSAGE + LARGEST_MESSAGE / GB * SENT_GB),
    }


def text():
    part = {name: price * MILLION for name, price in message_parts().items()}
    again = RECONNECTS_AN_HOUR * reconnect() * 1000
    spread, crowded = example(20, 50, 200_000), example(1, 50, 200_000)
    worst = stranger()
    return f"""\
    {FACTORS["stages"]:.2f} × stages  +  {FACTORS["M"]:.2f} × M  +  {FACTORS["F"]:.2f} × F  +  {FACTORS["K"]:.3f} × K  +  {FACTORS["H"]:.3f} × H

| | is | counts | and consists of |
| --- | --- | --- | --- |
| stages | | those that are deployed | alarms on {ALARM_METRICS} metrics {ALARM_METRICS * ALARM_METRIC:.2f}; {METRICS + 1} metrics {(METRICS + 1) * METRIC:.2f}; the canary's {CANARY_CALLS:,} calls and messages {canary():.2f} |
| M | million messages | each once | HTTP request {part["request"]:.2f}; two calls of functions {part["calls"]:.2f} and their {gb_seconds("newlog", "broadcaster") * MILLION:,.0f} GB-s {part["time"]:.2f}; write {part["write"]:.2f}; read of the connections {part["connections"]:.2f}; {part["log"] / LOGGED_GB:.1f} GB of logs {part["log"]:.2f}; kept for a week {part["stored"]:.2f} |
| F | million frames | each message × the viewers of its site | WebSocket message {WEBSOCKET_MESSAGE * MILLION:.2f} (for each 32 KB); transfer {MESSAGE_BYTES / GB * SENT_GB * MILLION:.2f} |
| K | thousand hours | of each connected viewer | connection minutes {60_000 * CONNECTION_MINUTE:.3f}; {RECONNECTS_AN_HOUR} reconnects an hour {again:.3f}: two rows and their index written and deleted, three calls, `recent-logs`, their logs |
| H | million messages of history | each message that a `recent-logs` answers with | read {MESSAGE_BYTES / 4096 * READ_UNIT * MILLION:.3f}; transfer {MESSAGE_BYTES / GB * SENT_GB * MILLION:.3f} |

Assumed: a message has {MESSAGE_BYTES} bytes, as a frame and in the history; on average newlog takes {SECONDS["newlog"] * 1000:.0f} ms ({MEMORY_MB["newlog"]:,} MB, arm64) and a broadcast {SECONDS["broadcaster"] * 1000:.0f} ms ({MEMORY_MB["broadcaster"]:,} MB), and each message is broadcast by itself; a viewer reconnects {RECONNECTS_AN_HOUR} times an hour, because the gateway closes a connection after 10 min without a frame, and fetches a day's messages of its site each time.

**20 sites, 50 viewers around the clock, {200_000:,} messages a month, evenly spread:** M = {spread["M"]:.1f}; F = 0.2 × 50 / 20 = {spread["F"]:.1f}; K = 50 × {HOURS} / 1000 = {spread["K"]:.1f}; H = {spread["K"]:.1f} thousand hours × {RECONNECTS_AN_HOUR} × {200_000 / 20 / DAYS:.0f} messages a day = {spread["H"]:.0f}.

    {sum_of(spread)}

**The same at a single site:** F = {crowded["F"]:.0f}, and each reconnect fetches {200_000 / DAYS:,.0f} messages, so H = {crowded["H"]:.0f}.

    {sum_of(crowded)}

**What a stranger can cost** is bounded by the largest messages and by reads, not by small messages. An hour of messages of 128 KB at the {TABLE_UNITS:,} write units a second that a table takes by default costs {worst["writes"]:.0f} dollars; reading `recent-logs` at its {TABLE_UNITS:,} read units {worst["reads"]:.0f}; and messages of 128 KB to viewers of the stranger's own, at the {POSTS:,} posts a second of an account, {worst["frames"]:.0f}. That is up to {sum(worst.values()):.0f} dollars an hour.
"""


def main():
    if "--write" not in sys.argv:
        print(text(), end="")
        return
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    PAGE.write_text(before + BEGIN + text() + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
