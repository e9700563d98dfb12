"""Checks that the next message of a site removes the row of a dead client. No
living client reaches the broadcaster's DeleteItem.

    dead_connection.py CONNECTIONS_TABLE
"""

import json
import os
import sys
import time
import urllib.request
import uuid

import boto3

HTTP = os.environ["LOGSTREAM_HTTP_URL"]


def main(table):
    site = f"dead-{uuid.uuid4()}"
    row = {
        "site": {"S": site},
        "ConnectionID": {"S": "L0SM9cOFvHcCIhw="},
        "ConnectionStartedUTC": {"S": "2020-11-04 11:05:58.123456"},
        "ExpiresAt": {"N": str(int(time.time()) + 600)},
    }
    boto3.client("dynamodb").put_item(TableName=table, Item=row)
    if online(site) != ["L0SM9cOFvHcCIhw="]:
        sys.exit("the row is not listed")
    body = json.dumps({"site": site, "log_message": "is anybody there?"}).encode()
    urllib.request.urlopen(f"{HTTP}/newlog", body, timeout=10).read()
    deadline = time.monotonic() + 20
    while online(site):
        if time.monotonic() > deadline:
            sys.exit("the row of a dead connection is still there")
    print("the row of a dead connection was removed")


def online(site):
    with urllib.request.urlopen(f"{HTTP}/onlineusers?site={site}", timeout=10) as answer:
        return [user["ConnectionID"] for user in json.load(answer)]


main(*sys.argv[1:])
