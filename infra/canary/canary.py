"""A scheduled function that does what the deployment is for: it watches a site
of its own, posts a message and waits for the frame. It raises if the frame does
not come, and the alarm `canary` follows from that. How long the frame took is a
metric, in CloudWatch's embedded metric format."""

import json
import os
import time

from smoke import Smoke

SECONDS = "logstream_canary_seconds"


def handler(_event, _context):
    environment = os.environ
    canary = Smoke(
        environment["HTTP_URL"],
        environment["WEBSOCKET_URL"],
        key=environment["PUBLISHER_KEY"] or None,
        site="canary",
    )
    try:
        canary.connect()
        canary.newlog()
        canary.broadcast()
    finally:
        if canary.viewer:
            canary.viewer.close()
    metric = {
        "Namespace": environment["METRICS_NAMESPACE"],
        "Dimensions": [[]],
        "Metrics": [{"Name": SECONDS, "Unit": "Seconds"}],
    }
    line = {
        "_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [metric]},
        SECONDS: canary.seconds,
    }
    print(json.dumps(line))
