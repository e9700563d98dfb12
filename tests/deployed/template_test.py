"""Checks template.yaml against the code, without an emulator: what it deploys,
allows and calls must be what the functions are written for."""

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from samtranslator.yaml_helper import yaml_parse

from templates import NO_VALUE, ROOT, Resolver, source, transform

sys.dont_write_bytecode = True
sys.path.append(str(ROOT / "docs"))
import cost  # noqa: E402


def needs():
    """What the code needs of a deployment, as it says itself."""
    cargo = ["cargo", "build", "--workspace", "--examples", "--locked", "--quiet"]
    subprocess.run(cargo, cwd=ROOT, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    example = Path(target) / "debug" / "examples" / "deployment"
    return json.loads(subprocess.run([example], capture_output=True, check=True).stdout)


NEEDS = needs()


TEMPLATE = yaml_parse(source("template.yaml"))
TRANSFORMED = transform()


def of_type(template, kind):
    return {name: resource for name, resource in template["Resources"].items() if resource["Type"] == kind}


def binary(function):
    return function["Metadata"]["BuildProperties"]["Binary"]


FUNCTIONS = {
    binary(function): (name, function["Properties"])
    for name, function in of_type(TEMPLATE, "AWS::Serverless::Function").items()
    # Not the canary, which is no part of the service.
    if "BuildProperties" in function["Metadata"]
}


class Permissions(unittest.TestCase):
    # What the code calls is observed by running it, see tests/deployment.rs.
    def test_each_function_may_do_what_its_code_does_and_nothing_else(self):
        for name, (_, function) in FUNCTIONS.items():
            with self.subTest(name):
                self.assertEqual(self.allowed(function), set(NEEDS["calls"][name]))

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
        """The action with what it is on."""
        text = json.dumps(resource)
        if action == "execute-api:ManageConnections":
            self.assertRegex(text, r"\$\{WebSocketApi\}/\$\{Stage\}/(POST|DELETE)/@connections/\*")
            verb = "DELETE" if "/DELETE/" in text else "POST"
            return f"management {action} {verb}"
        self.assertNotIn("*", text)
        kind = "messages" if "MessagesTable" in text else "connections"
        return f"{kind} {action}"

    def test_a_disconnect_reads_the_index_and_not_the_table(self):
        policy = json.dumps(FUNCTIONS["disconnect"][1]["Policies"])
        self.assertIn("${ConnectionsTable.Arn}/index/ConnectionID", policy)

    def test_only_the_managed_policies_of_sam_are_attached(self):
        managed = {"AWSLambdaBasicExecutionRole", "AWSLambdaDynamoDBExecutionRole"}
        roles = of_type(TRANSFORMED, "AWS::IAM::Role")
        # And the canary's.
        self.assertEqual(len(roles), len(NEEDS["calls"]) + 1)
        for name, role in roles.items():
            for arn in role["Properties"]["ManagedPolicyArns"]:
                self.assertIn(arn.rpartition("/")[2], managed, name)

    def test_every_role_has_the_boundary_that_is_given_and_none_otherwise(self):
        for arn in ("", "arn:aws:iam::000000000000:policy/boundary"):
            resolver = Resolver(TRANSFORMED, {"PermissionsBoundary": arn})
            for name, role in of_type(TRANSFORMED, "AWS::IAM::Role").items():
                boundary = resolver.resolve(role["Properties"]["PermissionsBoundary"])
                self.assertEqual(boundary, arn or NO_VALUE, name)


class Tables(unittest.TestCase):
    def test_the_tables_are_those_that_the_code_defines(self):
        for kind, resource in (("messages", "MessagesTable"), ("connections", "ConnectionsTable")):
            with self.subTest(kind):
                table = TEMPLATE["Resources"][resource]["Properties"]
                self.assertEqual(self.in_template(table), NEEDS["tables"][kind])
                self.assertEqual(table["BillingMode"], "PAY_PER_REQUEST")

    def in_template(self, table):
        types = {item["AttributeName"]: item["AttributeType"] for item in table["AttributeDefinitions"]}

        def keys(schema):
            self.assertEqual([item["KeyType"] for item in schema], ["HASH", "RANGE"])
            return [[item["AttributeName"], types[item["AttributeName"]]] for item in schema]

        indexes = table.get("GlobalSecondaryIndexes", [])
        self.assertTrue(all(index["Projection"] == {"ProjectionType": "KEYS_ONLY"} for index in indexes))
        stream = table.get("StreamSpecification")
        self.assertIn(stream, (None, {"StreamViewType": "NEW_IMAGE"}))
        self.assertIs(table["TimeToLiveSpecification"]["Enabled"], True)
        return {
            "key": keys(table["KeySchema"]),
            "index": next(([index["IndexName"], keys(index["KeySchema"])] for index in indexes), None),
            "time_to_live": table["TimeToLiveSpecification"]["AttributeName"],
            "stream": stream is not None,
        }


class Routes(unittest.TestCase):
    def test_the_routes_of_http_are_those_of_the_local_server(self):
        local = {tuple(route) for route in NEEDS["routes"]["http"]}
        deployed = {
            (event["Properties"]["Method"], event["Properties"]["Path"], name)
            for name, (_, function) in FUNCTIONS.items()
            for event in function.get("Events", {}).values()
            if event["Type"] == "HttpApi"
        }
        self.assertEqual(deployed, local)
        self.assertEqual(len(local), 3)

    def test_the_routes_of_the_websocket_are_those_of_the_local_server(self):
        local = dict(NEEDS["routes"]["websocket"])
        api = TEMPLATE["Resources"]["WebSocketApi"]["Properties"]
        resources = {resource: name for name, (resource, _) in FUNCTIONS.items()}
        deployed = {
            route: resources[target["FunctionArn"]["Fn::GetAtt"][0]] for route, target in api["Routes"].items()
        }
        self.assertEqual(deployed, local)
        self.assertEqual(len(local), 6)
        self.assertEqual(api["RouteSelectionExpression"], "$request.body.action")

    def test_cors_survives_the_transform(self):
        body = TRANSFORMED["Resources"]["HttpApi"]["Properties"]["Body"]
        [condition] = body["x-amazon-apigateway-cors"].values()
        cors = condition[1]
        self.assertEqual(set(cors["allowMethods"]), {"GET", "POST", "OPTIONS"})
        self.assertEqual(cors["allowHeaders"], ["authorization", "content-type"])
        self.assertEqual(set(cors["exposeHeaders"]), {"link", "retry-after"})
        self.assertNotIn("allowCredentials", cors)


class Functions(unittest.TestCase):
    def test_every_binary_is_deployed_with_memory_a_timeout_and_the_log_group(self):
        self.assertEqual(set(FUNCTIONS), set(NEEDS["calls"]))
        for name, function in of_type(TRANSFORMED, "AWS::Lambda::Function").items():
            with self.subTest(name):
                properties = function["Properties"]
                self.assertGreaterEqual(properties["MemorySize"], 256)
                self.assertGreaterEqual(properties["Timeout"], 10)
                self.assertLessEqual(properties["Timeout"], 30)
                self.assertEqual(properties["LoggingConfig"]["LogGroup"], {"Ref": "LogGroup"})
                self.assertEqual(properties["LoggingConfig"]["LogFormat"], "JSON")
                is_canary = name == "CanaryFunction"
                self.assertEqual(properties["Runtime"], "python3.13" if is_canary else "provided.al2023")

    def test_the_functions_are_traced_only_if_that_is_asked_for(self):
        traced = transform(Tracing="Active")["Resources"]
        for name, function in of_type(TRANSFORMED, "AWS::Lambda::Function").items():
            self.assertNotIn("TracingConfig", function["Properties"])
            self.assertEqual(traced[name]["Properties"]["TracingConfig"], {"Mode": {"Ref": "Tracing"}})
            managed = traced[f"{name}Role"]["Properties"]["ManagedPolicyArns"]
            self.assertIn("arn:aws:iam::aws:policy/AWSXrayWriteOnlyAccess", managed)

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

        for limit, value in NEEDS["mapping"].items():
            self.assertEqual(mapping[limit], value, limit)


class AccessLogs(unittest.TestCase):
    # Nothing that a caller wrote: no path, query, header or body.
    VARIABLES = {
        "connectionId",
        "error.message",
        "eventType",
        "httpMethod",
        "identity.sourceIp",
        "integrationErrorMessage",
        "integrationLatency",
        "integrationStatus",
        "requestId",
        "responseLatency",
        "routeKey",
        "status",
    }

    def test_they_are_json_without_what_callers_wrote(self):
        for name, settings in self.settings().items():
            with self.subTest(name):
                values = json.loads(settings["Format"])
                self.assertNotIn("\n", settings["Format"])
                self.assertEqual(values.pop("api"), name)
                for value in values.values():
                    self.assertTrue(value.startswith("$context."), value)
                    self.assertIn(value.removeprefix("$context."), self.VARIABLES)
                self.assertTrue(settings["DestinationArn"]["Fn::Sub"].endswith(":log-group:${AccessLogGroup}"))

    def test_the_saved_queries_are_those_of_the_page(self):
        dashboard = yaml_parse(source("infra/dashboard.yaml"))
        queries = of_type(dashboard, "AWS::Logs::QueryDefinition")
        self.assertEqual(len(queries), 2)
        name = TEMPLATE["Resources"]["AccessLogGroup"]["Properties"]["LogGroupName"]
        for query in queries.values():
            self.assertIn(f"```\n{query['Properties']['QueryString']}\n```\n", source("docs/operations.md"))
            self.assertEqual(query["Properties"]["LogGroupNames"], [name])

    def settings(self):
        """What the transform makes of them."""
        stages = of_type(TRANSFORMED, "AWS::ApiGatewayV2::Stage").values()
        stages = {stage["Properties"]["ApiId"]["Ref"]: stage["Properties"] for stage in stages}
        condition, websocket, otherwise = stages["WebSocketApi"]["AccessLogSettings"]["Fn::If"]
        self.assertEqual(condition, "HasWebSocketAccessLogs")
        self.assertEqual(otherwise, {"Ref": "AWS::NoValue"})
        return {"http": stages["HttpApi"]["AccessLogSettings"], "websocket": websocket}


class Alarms(unittest.TestCase):
    ALARMS = {name: alarm["Properties"] for name, alarm in of_type(TEMPLATE, "AWS::CloudWatch::Alarm").items()}
    # Over when they are seen; every other alarm is a state.
    EVENTS = {"LoggedErrorsAlarm", *(f"{resource.removesuffix('Function')}ErrorsAlarm" for resource, _ in FUNCTIONS.values())}

    def test_every_alarm_names_the_runbook_and_tells_whoever_is_to_be_told(self):
        told = {"Fn::If": ["HasAlarmEmail", [{"Ref": "AlarmTopic"}], {"Ref": "AWS::NoValue"}]}
        for name, alarm in self.ALARMS.items():
            with self.subTest(name):
                self.assertTrue(alarm["AlarmDescription"]["Fn::Sub"].endswith(" Runbook: ${RunbookUrl}"))
                self.assertEqual(alarm["AlarmActions"], told)
                self.assertEqual(alarm.get("OKActions"), None if name in self.EVENTS else told)

    def test_a_period_without_data_is_a_good_one_unless_the_canary_did_not_run(self):
        for name, alarm in self.ALARMS.items():
            expected = "breaching" if name == "CanaryAlarm" else "notBreaching"
            self.assertEqual(alarm["TreatMissingData"], expected, name)

    def test_each_function_has_an_alarm_for_its_errors_and_these_differ_in_nothing_else(self):
        texts = set()
        for name, (resource, _) in FUNCTIONS.items():
            alarm = json.dumps(self.ALARMS[resource.removesuffix("Function") + "ErrorsAlarm"])
            self.assertIn(f'{{"Ref": "{resource}"}}', alarm)
            self.assertIn(f"${{Stage}}-{name}-errors", alarm)
            self.assertIn(f"The function {name} has", alarm)
            for own in (f'"{resource}"', f"-{name}-errors", f"function {name} has"):
                alarm = alarm.replace(own, "*")
            texts.add(alarm)
        self.assertEqual(len(texts), 1, texts)

    def test_the_dashboard_shows_every_alarm_in_the_same_order(self):
        shown = re.findall(r":alarm:([^\"]+)\"", source("infra/dashboard.yaml"))
        self.assertEqual(shown, [alarm["AlarmName"]["Fn::Sub"] for alarm in self.ALARMS.values()])

    def test_the_dashboard_shows_every_metric_that_the_code_writes(self):
        written = set(re.findall(r"\"(logstream_\w+)\"", source("crates/core/src/metrics.rs") + source("infra/canary/canary.py")))
        shown = re.findall(r"\"(logstream_\w+)\"", source("infra/dashboard.yaml"))
        self.assertEqual(set(shown), written)
        reasons = set(re.findall(r"=> \"(\w+)\"", source("crates/core/src/error.rs")))
        self.assertEqual(set(re.findall(r"\"reason\", \"(\w+)\"", source("infra/dashboard.yaml"))), reasons)

    def test_the_runbook_has_a_row_for_every_alarm(self):
        runbook = source("docs/operations.md").split("\n## Alarms\n")[1].split("\n## ")[0]
        rows = set(re.findall(r"(?m)^\| `([a-z-]+)` \|", runbook))
        names = {alarm["AlarmName"]["Fn::Sub"].split("${Stage}-")[1] for alarm in self.ALARMS.values()}
        self.assertLessEqual(names, rows)


class Names(unittest.TestCase):
    # A second stage, or a second observatory, in one account collides with
    # nothing.
    NAMES = {"AlarmName", "FunctionName", "LogGroupName", "MetricNamespace", "Name", "QueueName", "TableName", "TopicName"}

    def test_every_name_has_the_prefix_and_the_stage(self):
        count = 0
        for resource, key, name in self.names(TEMPLATE["Resources"]):
            with self.subTest(resource, key=key):
                self.assertIn("${NamePrefix}", name)
                self.assertIn("${Stage}", name)
                count += 1
        self.assertGreater(count, 25)

    def test_no_name_is_written_out(self):
        for path in ("template.yaml", "infra/dashboard.yaml"):
            # The default of NamePrefix.
            self.assertEqual(source(path).count("photonranch-logstream"), 1, path)

    def test_the_longest_prefix_and_stage_fit_into_the_names_of_functions(self):
        prefix, stage = "p" * 33, "s" * 17
        for name, value in (("NamePrefix", prefix), ("Stage", stage)):
            pattern = TEMPLATE["Parameters"][name]["AllowedPattern"]
            self.assertIsNone(re.search(pattern, value))
            self.assertIsNotNone(re.search(pattern, value[1:]))
        for _, function in FUNCTIONS.values():
            name = function["FunctionName"]["Fn::Sub"]
            name = name.replace("${NamePrefix}", prefix[1:]).replace("${Stage}", stage[1:])
            self.assertLessEqual(len(name), 64, name)

    def names(self, resources):
        for resource, definition in resources.items():
            for key, value in definition["Properties"].items():
                # A reference is to a thing that has its name already.
                if key in self.NAMES and "Ref" not in value:
                    yield resource, key, value["Fn::Sub"]


class Cost(unittest.TestCase):
    def test_the_page_has_the_numbers_of_the_script(self):
        self.assertIn(cost.BEGIN + cost.text() + cost.END, source("docs/operations.md"), "run docs/cost.py --write")

    def test_the_script_assumes_what_the_template_deploys(self):
        metrics = 0
        for alarm in of_type(TEMPLATE, "AWS::CloudWatch::Alarm").values():
            queries = alarm["Properties"].get("Metrics")
            metrics += sum("MetricStat" in query for query in queries) if queries else 1
        self.assertEqual(cost.ALARM_METRICS, metrics)
        memory = {name: TRANSFORMED["Resources"][resource]["Properties"]["MemorySize"] for name, (resource, _) in FUNCTIONS.items()}
        self.assertLessEqual(cost.MEMORY_MB.items(), memory.items())

    def test_the_examples_follow_from_the_formula(self):
        amounts = cost.example(sites=20, viewers=50, messages=200_000)
        self.assertEqual(amounts["F"], 0.5)
        total = sum(cost.FACTORS[name] * amount for name, amount in amounts.items())
        self.assertAlmostEqual(total, float(cost.sum_of(amounts).split(" = ")[1].split()[0]), delta=0.03)


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


if __name__ == "__main__":
    unittest.main(verbosity=2)
