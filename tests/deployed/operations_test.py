"""Runs the commands of docs/operations.md against the emulator, as an operator
would paste them, with dev in place of prod.

    operations_test.py

A block of commands that cannot run here is listed with the reason. So a new one
is either run or explained.
"""

import re
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "operations.md"

# What a block holds that is not run, and why.
ELSEWHERE = {
    "python3 -m venv ~/": "tests/deployed/run installs the same, by the pinned versions",
    "sam build\nsam deploy": "run by tests/deployed/run",
    "sam build && infra/release deploy": "run by tests/deployed/run",
    "infra/release rollback": "run by tests/deployed/run",
    "sam deploy --config-env prod\n": "the emulator has one stage; tests/deployed/run deploys dev",
    "PublisherKeys=": "run by keys_test.py, with other parameters",
    "infra/publisher-keys": "run by keys_test.py",
    "infra/rebroadcast": "run by rebroadcast_test.py",
    "update-event-source-mapping": "takes an hour; canary_test.py disables the mapping too",
    "openssl s_client": "the emulator has no TLS",
    "--connection-id ID": "the fan-out's tests close connections",
    "aws apigateway ": "there is no domain here",
    "apigatewayv2 get-api-mappings": "there is no domain here",
    "apigatewayv2 update-api-mapping": "there is no domain here",
    "aws logs tail": "only the AWS CLI 2 has it, which pip cannot install",
}


def blocks():
    """The blocks of commands, in the order of the page, without their indentation."""
    for indent, block in re.findall(r"(?ms)^( *)```sh\n(.*?)^ *```", PAGE.read_text()):
        yield re.sub(rf"(?m)^{indent}", "", block)


# Nothing may leave this machine, and the AWS CLI 1 asks SQS elsewhere in spite
# of AWS_ENDPOINT_URL. The addresses are the emulator's.
HERE = """
aws() { command aws --endpoint-url "$AWS_ENDPOINT_URL" "$@"; }
stage=dev
http=$LOGSTREAM_HTTP_URL
ws=$LOGSTREAM_WS_URL
manage=${ws/#ws/http}
"""


def says_what_is_missing():
    """Each command that needs Python's packages names the page's command that
    gives them, where there are none."""
    for name in ("release", "rebroadcast", "publisher-keys"):
        command = [sys.executable, "-S", "-E", ROOT / "infra" / name, "--help"]
        result = subprocess.run(command, capture_output=True, text=True)
        named = re.findall(r"(?m)^    (.*)", result.stderr)
        if len(named) != 1 or not any(named[0] in block for block in blocks()):
            sys.exit(f"infra/{name} without packages says:\n{result.stderr}")


def main():
    says_what_is_missing()
    prelude = None
    ran, unused = 0, set(ELSEWHERE)
    for block in blocks():
        # The first one is the function that the others use.
        prelude = prelude or block + HERE
        reasons = [text for text in ELSEWHERE if text in block]
        unused -= set(reasons)
        if reasons:
            continue
        script = re.sub(r"\bprod\b", "dev", block)
        print(f"$ {script.strip()}", flush=True)
        command = ["bash", "-euo", "pipefail", "-c", prelude + script]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        print(result.stdout[-500:].strip(), flush=True)
        if result.returncode:
            sys.exit(f"{result.stderr[-2000:]}\nThis block of {PAGE.name} fails:\n{script}")
        ran += 1
    if unused:
        sys.exit(f"{PAGE.name} has no such blocks any more: {', '.join(sorted(unused))}")
    print(f"{ran} blocks of {PAGE.name} were run")


main()
