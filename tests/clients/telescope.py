"""Sends messages back to back, with the call that the telescopes' scripts
make, and prints the status of each."""

import json
import sys
import time

import requests

url, site, texts = sys.argv[1], sys.argv[2], sys.argv[3:]

statuses = []
for number, text in enumerate(texts):
    log_level = "WARN" if number % 3 == 2 else "INFO"
    response = requests.post(
        url,
        json.dumps({"site": site, "log_message": str(text), "log_level": log_level, "timestamp": time.time()}),
        timeout=5,
    )
    assert "Content-Type" not in response.request.headers
    statuses.append(response.status_code)
print(json.dumps(statuses))
