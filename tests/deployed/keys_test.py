"""Checks the way of publishers' keys through a deployment: with PublisherKeys a
message needs a key, infra/publisher-keys adds and revokes one, and without keys
everybody may send again.

    keys_test.py STACK
"""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import boto3

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PARAMETER = "PublisherKeys"


def new_key(*arguments):
    """A key and its entry."""
    result = subprocess.run([TARGET / "debug" / "logstream", "key", "new", *arguments], capture_output=True, text=True, check=True)
    return result.stderr.removeprefix("key: ").strip(), result.stdout.strip()


def send(site, key=None):
    body = json.dumps({"site": site, "log_message": "with a key"}).encode()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{os.environ['LOGSTREAM_HTTP_URL']}/newlog", body, headers)
    try:
        return urllib.request.urlopen(request, timeout=15).status
    except urllib.error.HTTPError as error:
        return error.code


def main(stack):
    def keys(*arguments):
        command = [sys.executable, ROOT / "infra" / "publisher-keys", stack, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def expect(status, site, key=None):
        answer = send(site, key)
        if answer != status:
            sys.exit(f"a message to {site} is answered with {answer}, not {status}\n{keys()}")

    (camera, camera_entry), (dome, dome_entry) = new_key("camera", "--site", "saf"), new_key("dome", "--all-sites")
    expect(200, "saf")
    keys("add", camera_entry)
    expect(401, "saf")
    expect(401, "saf", dome)
    expect(200, "saf", camera)
    expect(403, "mrc", camera)
    keys("add", dome_entry)
    expect(200, "mrc", dome)
    if keys() != "camera\tsaf\ndome\t*\n":
        sys.exit(f"not the keys that were added: {keys()}")
    keys("revoke", "camera")
    expect(401, "saf", camera)
    expect(200, "saf", dome)

    cloudformation = boto3.client("cloudformation")
    [described] = cloudformation.describe_stacks(StackName=stack)["Stacks"]
    parameters = [
        {"ParameterKey": name, "ParameterValue": ""} if name == PARAMETER else {"ParameterKey": name, "UsePreviousValue": True}
        for name in (parameter["ParameterKey"] for parameter in described["Parameters"])
    ]
    cloudformation.update_stack(
        StackName=stack,
        UsePreviousTemplate=True,
        Parameters=parameters,
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    cloudformation.get_waiter("stack_update_complete").wait(StackName=stack, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    expect(200, "saf")
    print("a key is needed once there is one, and no longer once it is revoked")


main(*sys.argv[1:])
