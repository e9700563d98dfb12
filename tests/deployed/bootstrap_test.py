"""Runs the built functions as Lambda does, under a Runtime API of its own:
which variables each asks for, and that no event ends its process. Needs
`sam build` and the emulator (AWS_ENDPOINT_URL) with the deployed tables."""

import base64
import http.server
import json
import os
import queue
import re
import subprocess
import tempfile
import threading
import unittest
from pathlib import Path

from samtranslator.yaml_helper import yaml_parse

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / ".aws-sam" / "build"
TEMPLATE = yaml_parse((ROOT / "template.yaml").read_text())
COMMON = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]
FUNCTIONS = {
    resource["Metadata"]["BuildProperties"]["Binary"]: (name, {*COMMON, *resource["Properties"]["Environment"]["Variables"]})
    for name, resource in TEMPLATE["Resources"].items()
    # Not the canary, which is in Python and built by nobody.
    if resource["Type"] == "AWS::Serverless::Function" and "Binary" in resource["Metadata"].get("BuildProperties", {})
}
HTTP = {"newlog": "POST", "recent-logs": "GET", "online-users": "GET"}
WEBSOCKET = {
    "connect": "$connect",
    "disconnect": "$disconnect",
    "default": "$default",
    "newlog": "newlog",
    "subscribe": "subscribe",
}
VALUES = {
    "MESSAGES_TABLE": "photonranch-logstream-messages-dev",
    "CONNECTIONS_TABLE": "photonranch-logstream-websocket-connections-dev",
    "RETENTION_DAYS": "7",
    "METRICS_NAMESPACE": "test",
    "PUBLISHER_KEYS": "",
    # Nobody listens there: telling a sender of its error fails, is logged and
    # ends the event all the same.
    "AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI": "http://127.0.0.1:1",
}
PATIENCE = 30
REQUEST_ID = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"


class Bootstrap:
    """A function's process."""

    def __init__(self, binary, variables, **more):
        self.events, self.answers = queue.Queue(), queue.Queue()
        self.is_ready = threading.Event()
        bootstrap = self

        class RuntimeApi(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                bootstrap.is_ready.set()
                event = bootstrap.events.get()
                self.reply(event, {"Lambda-Runtime-Aws-Request-Id": REQUEST_ID, "Lambda-Runtime-Deadline-Ms": "99999999999999"})

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                bootstrap.answers.put((self.path.rpartition("/")[2], body))
                self.reply("{}", {})

            def reply(self, body, headers):
                self.send_response(200)
                for name, value in headers.items():
                    self.send_header(name, value)
                body = body.encode()
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RuntimeApi)
        self.server.daemon_threads = True
        # The process is killed while it waits for an event.
        self.server.handle_error = lambda *_: None
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        name = FUNCTIONS[binary][0]
        environment = {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.server.server_port}",
            "AWS_LAMBDA_FUNCTION_NAME": binary,
            "AWS_LAMBDA_FUNCTION_VERSION": "1",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
            **{name: value for name, value in os.environ.items() if name.startswith("AWS_") or name == "NO_PROXY"},
            **{name: VALUES[name] for name in variables},
            **more,
        }
        # Not a pipe, which is full after 64 KB and then holds up the function.
        self.output = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [BUILT / name / "bootstrap"], env=environment, stdout=self.output, stderr=subprocess.STDOUT
        )

    def call(self, event):
        """What the function posts, and where: its response or an error."""
        self.events.put(event if isinstance(event, str) else json.dumps(event))
        kind, body = self.answers.get(timeout=PATIENCE)
        return kind, json.loads(body)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.output.seek(0)
        output = self.output.read()
        self.output.close()
        # Lets the thread that waits for an event end.
        self.events.put("{}")
        self.server.shutdown()
        self.server.server_close()
        return output


def http_event(method, query, **more):
    event = {
        "version": "2.0",
        "rawPath": "/",
        "rawQueryString": query,
        "headers": {},
        "requestContext": {"http": {"method": method, "path": "/"}, "domainName": "example.org", "stage": "$default"},
        "isBase64Encoded": False,
    }
    context = more.pop("requestContext", {})
    event["requestContext"].update(context)
    return {**event, **more}


def websocket_event(route, **more):
    context = {"routeKey": route, "connectionId": "L0SM9cOFvHcCIhw=", "connectedAt": 1, "requestTimeEpoch": 1}
    return {"requestContext": {**context, **more.pop("requestContext", {})}, "isBase64Encoded": False, **more}


def hostile(binary):
    """Events on which lambda_http panics, and their like."""
    strange = [*map(chr, range(0x21)), '"', "#", "<", ">", "{", "|", "\x7f", "é", "\U0001f52d", "%", "%zz", "\\", "^", "`"]
    places = [{"domainName": value} for value in ("a b", "", "[", ":", "a:b:c", "\x00")]
    places += [{"stage": value} for value in ("a b", "?", "#", "//")]
    headers = [{"host": "a b"}, {"host": "["}, {"x-forwarded-proto": "no scheme"}, {"x-forwarded-proto": "1", "host": "x"}]
    bodies = ["%%%", "=", "a", "é", base64.b64encode(b"\xff\x00").decode()]
    if binary in HTTP:
        method = HTTP[binary]
        for text in strange:
            yield http_event(method, f"site=a{text}b", body="{}")
        yield http_event(method, "site=" + '"' * 70_000, body="{}")
        yield http_event(method, "site=" + "a" * 70_000, body="{}")
        for context in places:
            yield http_event(method, "site=a", body="{}", requestContext=context)
        for header in headers:
            yield http_event(method, "site=a", body="{}", headers=header)
        for path in ("a b", "//", "?", "\x00", "é"):
            yield http_event(method, "site=a", body="{}", rawPath=path)
        for body in bodies:
            yield http_event(method, "site=a", body=body, isBase64Encoded=True)
    if binary in WEBSOCKET:
        route = WEBSOCKET[binary]
        for text in strange:
            yield websocket_event(route, body="{}", queryStringParameters={"site": f"a{text}b"})
        yield websocket_event(route, body="{}", queryStringParameters={"site": "é" * 40_000})
        for context in places:
            yield websocket_event(route, body="{}", queryStringParameters={"site": "a"}, requestContext=context)
        for header in headers:
            yield websocket_event(route, body="{}", queryStringParameters={"site": "a"}, headers=header)


class Bootstraps(unittest.TestCase):
    def test_each_function_asks_for_the_variables_that_the_template_gives_it(self):
        for binary, (_, given) in FUNCTIONS.items():
            with self.subTest(binary):
                asked = set()
                while True:
                    bootstrap = Bootstrap(binary, asked)
                    while not bootstrap.is_ready.wait(0.05) and bootstrap.process.poll() is None:
                        pass
                    is_ready = bootstrap.is_ready.is_set() and bootstrap.answers.empty()
                    output = bootstrap.stop()
                    if is_ready:
                        break
                    missing = re.search(r"the environment variable (\w+) is not set", output)
                    self.assertIsNotNone(missing, output)
                    self.assertNotIn(missing[1], asked, output)
                    asked.add(missing[1])
                self.assertEqual(asked, given)

    def test_no_event_ends_a_request_functions_process(self):
        for binary in sorted({*HTTP, *WEBSOCKET}):
            bootstrap = Bootstrap(binary, FUNCTIONS[binary][1])
            try:
                count = 0
                for event in hostile(binary):
                    kind, response = bootstrap.call(event)
                    with self.subTest(binary, event=json.dumps(event)[:200]):
                        self.assertEqual(kind, "response", response)
                        self.assertIn(response["statusCode"], (200, 400))
                    count += 1
                # What is no event of API Gateway's is an error of the call alone.
                for event in ("{}", "[]", "null", "1"):
                    with self.subTest(binary, event=event):
                        self.assertEqual(bootstrap.call(event)[0], "error")
                self.assertIsNone(bootstrap.process.poll())
                self.assertGreater(count, 40)
            finally:
                output = bootstrap.stop()
            self.assertNotIn("panicked", output)

    def test_an_error_is_a_line_with_its_time_level_and_request_at_every_log_level(self):
        for level in ("DEBUG", "INFO", "WARN", "ERROR"):
            with self.subTest(level):
                # It takes newlog 3 s to find that there is no table.
                away = {"AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:1", "AWS_LAMBDA_LOG_LEVEL": level}
                bootstrap = Bootstrap("newlog", FUNCTIONS["newlog"][1], **away)
                try:
                    _, response = bootstrap.call(http_event("POST", "", body='{"site": "a", "log_message": "secret"}'))
                    self.assertEqual(response["statusCode"], 503)
                finally:
                    output = bootstrap.stop()
                lines = [json.loads(line) for line in output.splitlines()]
                [error] = [line for line in lines if line.get("level") == "ERROR"]
                self.assertEqual(error["fields"]["message"], "request failed")
                self.assertIn(REQUEST_ID, json.dumps(error["spans"]))
                self.assertRegex(error["timestamp"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z$")
                self.assertNotIn("secret", output)

    def test_what_an_event_counted_is_a_line_in_the_embedded_metric_format(self):
        bootstrap = Bootstrap("newlog", FUNCTIONS["newlog"][1])
        try:
            # The line of a call follows its response; the third call waits for it.
            for body in ('{"site": "metrics", "log_message": "x"}', "{}", "{}"):
                bootstrap.call(http_event("POST", "", body=body))
        finally:
            output = bootstrap.stop()
        lines = [json.loads(line) for line in output.splitlines()]
        stored, refused = [line for line in lines if "_aws" in line][:2]
        self.assertEqual(stored["logstream_messages_total"], 1)
        self.assertEqual((refused["logstream_refused_total"], refused["reason"]), (1, "invalid"))
        for line, dimensions in ((stored, []), (refused, ["reason"])):
            [directive] = line["_aws"]["CloudWatchMetrics"]
            self.assertEqual(directive["Namespace"], VALUES["METRICS_NAMESPACE"])
            self.assertEqual(directive["Dimensions"], [dimensions])
            self.assertIsInstance(line["_aws"]["Timestamp"], int)

    def test_a_body_that_is_not_the_base64_it_says_is_400(self):
        bootstrap = Bootstrap("newlog", FUNCTIONS["newlog"][1])
        try:
            _, response = bootstrap.call(http_event("POST", "", body="%%%", isBase64Encoded=True))
            self.assertEqual(response["statusCode"], 400)
            self.assertIn("not valid JSON", json.loads(response["body"])["message"])
        finally:
            bootstrap.stop()


if __name__ == "__main__":
    unittest.main(verbosity=2)
