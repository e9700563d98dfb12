"""Checks template.yaml against the code, without an emulator: what it deploys,
allows and calls must be what the functions are written for."""

import json
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

ROOT = Path(__file__).resolve().parents[2]
BINARIES = {"connect", "disconnect", "default", "newlog", "recent-logs", "online-users", "broadcaster"}

# The IAM actions of the SDK's calls. A post and a close share one action; their
# resources differ in the verb.
ACTIONS = {
    "put_item": "dynamodb:PutItem",
    "query": "dynamodb:Query",
    "delete_item": "dynamodb:DeleteItem",
    "post_to_connection": "execute-api:ManageConnections POST",
    "delete_connection": "execute-api:ManageConnections DELETE",
}


def source(path):
    return (ROOT / path).read_text()


def transform():
    """The template as CloudFormation gets it from SAM."""
    template = yaml_parse(source("template.yaml"))
    template["Globals"]["Function"]["CodeUri"] = "s3://bucket/key"
    parameters = {name: parameter["Default"] for name, parameter in template["Parameters"].items()}
    # What the translator would ask IAM for.
    names = ["AWSLambdaBasicExecutionRole", "AWSLambdaDynamoDBExecutionRole"]
    policies = {name: f"arn:aws:iam::aws:policy/service-role/{name}" for name in names}
    session = boto3.Session(region_name="us-east-1")
    return Translator(policies, Parser(), boto_session=session).translate(template, parameters)


TEMPLATE = yaml_parse(source("template.yaml"))
TRANSFORMED = transform()


def of_type(template, kind):
    return {name: resource for name, resource in template["Resources"].items() if resource["Type"] == kind}


def binary(function):
    return function["Metadata"]["BuildProperties"]["Binary"]


FUNCTIONS = {
    binary(function): (name, function["Properties"])
    for name, function in of_type(TEMPLATE, "AWS::Serverless::Function").items()
}


def rust_functions(text):
    """The bodies of a file's functions by their names, tests left out."""
    text = text.split("#[cfg(test)]")[0]
    starts = list(re.finditer(r"\bfn (\w+)", text))
    ends = [start.start() for start in starts[1:]] + [len(text)]
    return {start[1]: text[start.end():end] for start, end in zip(starts, ends)}


def calls_of_core(kind):
    """For each function of a core type: the SDK calls that it leads to."""
    bodies = rust_functions(source(f"crates/core/src/{kind}.rs"))

    def reached(name, seen=()):
        if name in seen:
            return set()
        body = bodies[name]
        own = {call for call in ACTIONS if re.search(rf"\.{call}\(\)", body)}
        inner = [other for other in bodies if re.search(rf"self\s*\.{other}\(", body)]
        return own.union(*(reached(other, (*seen, name)) for other in inner))

    return {name: reached(name) for name in bodies}


def calls_of_binary(name):
    """The SDK calls of a function, each with the core type that makes it."""
    text = "\n".join(path.read_text() for path in (ROOT / f"crates/{name}/src").glob("*.rs"))
    calls = set()
    for kind in ("messages", "connections", "gateway"):
        for method, reached in calls_of_core(kind).items():
            if re.search(rf"\b{kind}\s*\.{method}\(", text):
                calls |= {(kind, call) for call in reached}
    return calls


class Permissions(unittest.TestCase):
    def test_each_function_may_do_what_its_code_does_and_nothing_else(self):
        for name, (_, function) in FUNCTIONS.items():
            expected = {(kind, ACTIONS[call]) for kind, call in calls_of_binary(name)}
            self.assertTrue(expected, name)
            with self.subTest(name):
                self.assertEqual(self.allowed(function), expected)

    def allowed(self, function):
        allowed = set()
        for policy in function["Policies"]:
            for statement in policy["Statement"]:
                self.assertEqual(statement["Effect"], "Allow")
                for action in as_list(statement["Action"]):
                    for resource in as_list(statement["Resource"]):
                        allowed.add(self.named(action, resource))
        return allowed

    def named(self, action, resource):
        """The action, with the core type that owns its resource."""
        text = json.dumps(resource)
        if action == "execute-api:ManageConnections":
            self.assertRegex(text, r"\$\{WebSocketApi\}/\$\{Stage\}/(POST|DELETE)/@connections/\*")
            verb = "DELETE" if "/DELETE/" in text else "POST"
            return "gateway", f"{action} {verb}"
        self.assertNotIn("*", text)
        kind = "messages" if "MessagesTable" in text else "connections"
        return kind, action

    def test_a_disconnect_reads_the_index_and_not_the_table(self):
        policy = json.dumps(FUNCTIONS["disconnect"][1]["Policies"])
        self.assertIn("${ConnectionsTable.Arn}/index/ConnectionID", policy)

    def test_only_the_managed_policies_of_sam_are_attached(self):
        managed = {"AWSLambdaBasicExecutionRole", "AWSLambdaDynamoDBExecutionRole"}
        roles = of_type(TRANSFORMED, "AWS::IAM::Role")
        self.assertEqual(len(roles), len(BINARIES))
        for name, role in roles.items():
            for arn in role["Properties"]["ManagedPolicyArns"]:
                self.assertIn(arn.rpartition("/")[2], managed, name)


class Tables(unittest.TestCase):
    def test_the_tables_are_those_that_the_code_defines(self):
        for kind, resource in (("messages", "MessagesTable"), ("connections", "ConnectionsTable")):
            with self.subTest(kind):
                table = TEMPLATE["Resources"][resource]["Properties"]
                self.assertEqual(self.in_template(table), self.in_code(kind))
                self.assertEqual(table["BillingMode"], "PAY_PER_REQUEST")

    def in_code(self, kind):
        text = source(f"crates/core/src/{kind}.rs")
        names = dict(re.findall(r'const (\w+): &str = "([^"]+)"', text))
        definition = text.split("TableDefinition = TableDefinition {")[1].split("\n};")[0]
        key = re.compile(r"(?:partition|sort): \((\w+), ScalarAttributeType::(\w)\)")
        keys = [(names[name], kind) for name, kind in key.findall(definition)]
        index = re.search(r"index: Some\(\(\s*(\w+)", definition)
        return {
            "key": keys[:2],
            "index": (names[index[1]], keys[2:]) if index else None,
            "time_to_live": names[re.search(r"time_to_live: (\w+)", definition)[1]],
            "stream": "stream: true" in definition,
        }

    def in_template(self, table):
        types = {item["AttributeName"]: item["AttributeType"] for item in table["AttributeDefinitions"]}

        def keys(schema):
            self.assertEqual([item["KeyType"] for item in schema], ["HASH", "RANGE"])
            return [(item["AttributeName"], types[item["AttributeName"]]) for item in schema]

        indexes = table.get("GlobalSecondaryIndexes", [])
        self.assertTrue(all(index["Projection"] == {"ProjectionType": "KEYS_ONLY"} for index in indexes))
        stream = table.get("StreamSpecification")
        self.assertIn(stream, (None, {"StreamViewType": "NEW_IMAGE"}))
        self.assertIs(table["TimeToLiveSpecification"]["Enabled"], True)
        return {
            "key": keys(table["KeySchema"]),
            "index": next(((index["IndexName"], keys(index["KeySchema"])) for index in indexes), None),
            "time_to_live": table["TimeToLiveSpecification"]["AttributeName"],
            "stream": stream is not None,
        }


class Routes(unittest.TestCase):
    def test_the_routes_of_http_are_those_of_the_local_server(self):
        text = source("crates/local/src/http_api.rs")
        local = re.findall(r'\(Method::(\w+), "([^"]+)", Function::(\w+)\)', text)
        local = {(method, path, kebab(function)) for method, path, function in local}
        deployed = {
            (event["Properties"]["Method"], event["Properties"]["Path"], name)
            for name, (_, function) in FUNCTIONS.items()
            for event in function.get("Events", {}).values()
            if event["Type"] == "HttpApi"
        }
        self.assertEqual(deployed, local)
        self.assertEqual(len(local), 3)

    def test_the_routes_of_the_websocket_are_those_of_the_local_server(self):
        text = source("crates/local/src/websocket_api.rs")
        local = {route: kebab(name) for route, name in re.findall(r'\("([$\w]+)", Function::(\w+)\)', text)}
        api = TEMPLATE["Resources"]["WebSocketApi"]["Properties"]
        resources = {resource: name for name, (resource, _) in FUNCTIONS.items()}
        deployed = {
            route: resources[target["FunctionArn"]["Fn::GetAtt"][0]] for route, target in api["Routes"].items()
        }
        self.assertEqual(deployed, local)
        self.assertEqual(len(local), 4)
        self.assertEqual(api["RouteSelectionExpression"], "$request.body.action")

    def test_cors_survives_the_transform(self):
        body = TRANSFORMED["Resources"]["HttpApi"]["Properties"]["Body"]
        [condition] = body["x-amazon-apigateway-cors"].values()
        cors = condition[1]
        self.assertEqual(set(cors["allowMethods"]), {"GET", "POST", "OPTIONS"})
        self.assertEqual(cors["allowHeaders"], ["content-type"])
        self.assertEqual(set(cors["exposeHeaders"]), {"link", "retry-after"})
        self.assertNotIn("allowCredentials", cors)


class Functions(unittest.TestCase):
    def test_every_binary_is_deployed_with_memory_a_timeout_and_the_log_group(self):
        self.assertEqual(set(FUNCTIONS), BINARIES)
        for name, function in of_type(TRANSFORMED, "AWS::Lambda::Function").items():
            with self.subTest(name):
                properties = function["Properties"]
                self.assertGreaterEqual(properties["MemorySize"], 256)
                self.assertGreaterEqual(properties["Timeout"], 10)
                self.assertLessEqual(properties["Timeout"], 30)
                self.assertEqual(properties["LoggingConfig"]["LogGroup"], {"Ref": "LogGroup"})
                self.assertEqual(properties["LoggingConfig"]["LogFormat"], "JSON")
                self.assertEqual(properties["Runtime"], "provided.al2023")

    def test_each_function_has_the_variables_that_it_reads_and_no_other(self):
        names = dict(re.findall(r'pub const (\w+): &str = "([^"]+)"', source("crates/core/src/config.rs")))
        for name, (_, function) in FUNCTIONS.items():
            read = {names[word] for word in re.findall(r"config::([A-Z_]+)", source(f"crates/{name}/src/main.rs"))}
            with self.subTest(name):
                self.assertEqual(set(function["Environment"]["Variables"]), read)

    def test_the_stream_mapping_keeps_order_retries_within_bounds_and_loses_nothing_silently(self):
        [mapping] = of_type(TRANSFORMED, "AWS::Lambda::EventSourceMapping").values()
        mapping = mapping["Properties"]
        self.assertEqual(mapping["FunctionName"], {"Ref": FUNCTIONS["broadcaster"][0]})
        self.assertEqual(mapping["ParallelizationFactor"], 1)
        self.assertEqual(mapping["StartingPosition"], "TRIM_HORIZON")
        self.assertEqual(mapping["FunctionResponseTypes"], ["ReportBatchItemFailures"])
        self.assertIs(mapping["BisectBatchOnFunctionError"], True)
        self.assertNotIn("MaximumBatchingWindowInSeconds", mapping)
        [pattern] = mapping["FilterCriteria"]["Filters"]
        self.assertEqual(json.loads(pattern["Pattern"]), {"eventName": ["INSERT"]})
        self.assertEqual(mapping["DestinationConfig"]["OnFailure"]["Destination"], {"Fn::GetAtt": ["FailureQueue", "Arn"]})

        self.assertEqual(mapping["BatchSize"], constant("crates/broadcaster/src/lib.rs", r"BATCH_SIZE: usize = (\d+)"))
        local = "crates/local/src/event_source.rs"
        self.assertEqual(mapping["MaximumRetryAttempts"], constant(local, r"MAX_RETRIES: u32 = (\d+)"))
        age = constant(local, r"MAX_AGE: Duration = Duration::from_secs\((\d+)\)")
        self.assertEqual(mapping["MaximumRecordAgeInSeconds"], age)


class Lint(unittest.TestCase):
    def test_what_cloudformation_gets_passes_cfn_lint(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(TRANSFORMED, file)
            file.flush()
            # W2001, parameter not used: the transform puts in the values of some.
            self.lint("--ignore-checks", "W2001", "--template", file.name)

    def test_the_other_stacks_pass_cfn_lint(self):
        self.lint(*map(str, sorted((ROOT / "infra").glob("*.yaml"))))

    def lint(self, *arguments):
        command = [Path(sys.executable).with_name("cfn-lint"), *arguments]
        result = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)


def as_list(value):
    return value if isinstance(value, list) else [value]


def kebab(name):
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def constant(path, pattern):
    return int(re.search(pattern, source(path))[1])


if __name__ == "__main__":
    unittest.main(verbosity=2)
