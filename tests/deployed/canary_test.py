"""Checks that the canary passes, and fails within one call once the broadcaster
is not called any more, although every POST is answered with 200.

    canary_test.py STACK

The emulator calls no function by a schedule, so this calls it. It is given the
emulator's addresses, as the canary's own name AWS.
"""

import json
import os
import sys
import time

import boto3


def main(stack):
    cloudformation, functions = boto3.client("cloudformation"), boto3.client("lambda")
    resources = cloudformation.describe_stack_resources(StackName=stack)["StackResources"]
    names = {resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in resources}
    canary = names["CanaryFunction"]
    variables = functions.get_function_configuration(FunctionName=canary)["Environment"]["Variables"]
    variables |= {"HTTP_URL": os.environ["LOGSTREAM_HTTP_URL"], "WEBSOCKET_URL": os.environ["LOGSTREAM_WS_URL"]}
    functions.update_function_configuration(FunctionName=canary, Environment={"Variables": variables})

    def call():
        answer = functions.invoke(FunctionName=canary)
        return answer.get("FunctionError"), answer["Payload"].read().decode()

    error, payload = call()
    if error:
        sys.exit(f"the canary fails although all is well: {payload}")
    [mapping] = functions.list_event_source_mappings(FunctionName=names["BroadcasterFunction"])["EventSourceMappings"]

    def enable(is_enabled):
        functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=is_enabled)
        wanted = "Enabled" if is_enabled else "Disabled"
        deadline = time.monotonic() + 30
        while functions.get_event_source_mapping(UUID=mapping["UUID"])["State"] != wanted:
            if time.monotonic() > deadline:
                sys.exit(f"the mapping is not {wanted}")
            time.sleep(0.1)

    enable(False)
    try:
        error, payload = call()
    finally:
        enable(True)
    if not error or "nothing came within" not in json.loads(payload)["errorMessage"]:
        sys.exit(f"the canary does not notice that the broadcaster is not called: {error} {payload}")
    print(f"the canary notices that the broadcaster is not called: {json.loads(payload)['errorMessage']}")


main(*sys.argv[1:])
