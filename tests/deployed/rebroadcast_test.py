"""Runs infra/rebroadcast against a deployment, with entries as Lambda writes them.

    rebroadcast_test.py STACK
"""

import json
import os
import subprocess
import sys
import time
import uuid
from importlib import util
from importlib.machinery import SourceFileLoader
from pathlib import Path

import boto3

ROOT = Path(__file__).resolve().parents[2]
# The smoke test's client, without a copy of its code beside it.
sys.dont_write_bytecode = True
loader = SourceFileLoader("smoke", str(ROOT / "tests" / "smoke"))
smoke = util.module_from_spec(util.spec_from_loader("smoke", loader))
loader.exec_module(smoke)
HTTP, WS = os.environ["LOGSTREAM_HTTP_URL"], os.environ["LOGSTREAM_WS_URL"]


def main(stack):
    [described] = boto3.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}
    sqs, queue = boto3.client("sqs"), outputs["FailureQueueUrl"]
    site = f"again-{uuid.uuid4()}"
    viewer = smoke.WebSocket(WS, f"site={site}")
    try:
        for number in range(3):
            body = json.dumps({"site": site, "log_message": f"é {number}"})
            smoke.expect(smoke.request(HTTP, "POST", "/newlog", body)[0] == 200, "newlog")
        first_time = frames(viewer)
        entry = failed(outputs["MessagesTableName"], site)
        sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(entry))

        expect(rebroadcast(stack, "--dry-run"), 1, "3 messages would be sent")
        expect(rebroadcast(stack), 0, "3 messages sent")
        smoke.expect(frames(viewer) == first_time, "the frames differ")
        expect(rebroadcast(stack), 0, "0 messages sent, 0 entries left")

        entry["DDBStreamBatchInfo"]["shardId"] = "shardId-00000000000000000001-00000000"
        sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(entry))
        expect(rebroadcast(stack), 1, "the records have left the stream")
        expect(rebroadcast(stack, "--forget"), 0, "0 entries left")
        expect(rebroadcast(stack), 0, "0 messages sent, 0 entries left")
    finally:
        viewer.socket.close()
    print("what the failure queue named was sent again")


def frames(viewer):
    deadline = time.monotonic() + 20
    return sorted(viewer.message(deadline) for _ in range(3))


def failed(table, site):
    """What Lambda puts into the queue for the site's messages."""
    streams = boto3.client("dynamodbstreams")
    arn = boto3.client("dynamodb").describe_table(TableName=table)["Table"]["LatestStreamArn"]
    for shard in streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]:
        place = {"StreamArn": arn, "ShardId": shard["ShardId"]}
        iterator = streams.get_shard_iterator(**place, ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
        # Other tests have filled more than one page.
        records, page = [], True
        while page:
            answer = streams.get_records(ShardIterator=iterator)
            page, iterator = answer["Records"], answer["NextShardIterator"]
            records += page
        numbers = [r["dynamodb"]["SequenceNumber"] for r in records if r["dynamodb"]["Keys"]["site"]["S"] == site]
        if numbers:
            break
    return {
        "requestContext": {"condition": "RetryAttemptsExhausted", "approximateInvokeCount": 6},
        "version": "1.0",
        "DDBStreamBatchInfo": {
            "shardId": shard["ShardId"],
            "startSequenceNumber": numbers[0],
            "endSequenceNumber": numbers[-1],
            "approximateArrivalOfFirstRecord": "2026-11-27T03:00:00Z",
            "approximateArrivalOfLastRecord": "2026-11-27T03:00:01Z",
            "batchSize": len(numbers),
            "streamArn": arn,
        },
    }


def rebroadcast(*arguments):
    command = [sys.executable, ROOT / "infra" / "rebroadcast", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def expect(result, code, text):
    output = result.stdout + result.stderr
    smoke.expect(result.returncode == code and text in output, f"expected {code} and '{text}': {output}")


main(*sys.argv[1:])
