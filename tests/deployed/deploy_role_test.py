"""Checks infra/deploy-role.yaml without an emulator: that CloudFormation may do
with it all that the template needs, and that whoever holds the roles of dev
reaches nothing of prod.

What CloudFormation needs is in the handlers of its public resource schemas,
which cfn-lint carries. attacker.py tries on the emulator what is computed here.
"""

import json
import unittest

import boto3
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

from policies import ACCOUNT, APIS, REGION, DeployStack, boundary_arn
from templates import Resolver, transform

TEMPLATE = transform()
DEV = DeployStack("dev")
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


def arn(service, name, region=REGION, account=ACCOUNT):
    return f"arn:aws:{service}:{region}:{account}:{name}"


def iam(name):
    return arn("iam", name, region="")


def gateway(path):
    return arn("apigateway", path, account="")


def bucket(stage):
    return f"arn:aws:s3:::aws-sam-cli-managed-default-bucket/logstream-{stage}/package"


# ── What CloudFormation needs ────────────────────────────────────────────────

# They have no resource type in the Service Authorization Reference, so only a
# statement about "*" allows them.
WITHOUT_RESOURCE = {
    "lambda:CreateEventSourceMapping",
    "logs:DescribeIndexPolicies",
    "logs:DescribeLogGroups",
    "logs:DescribeResourcePolicies",
    "sns:Unsubscribe",
}

# What handlers name and the role refuses, by type or for all types, and why.
REFUSED = {
    ("*", "kms:"): "AWS's own keys encrypt everything",
    ("AWS::ApiGatewayV2::Api", "s3:"): "SAM puts the definition into the template",
    ("AWS::ApiGatewayV2::Integration", "iam:PassRole"): "the functions' policies let API Gateway call them",
    ("AWS::DynamoDB::Table", "iam:CreateServiceLinkedRole"): "no replicas and no scaling",
    ("AWS::DynamoDB::Table", "kinesis:"): "no Kinesis stream",
    ("AWS::DynamoDB::Table", "logs:Create"): "no import",
    ("AWS::DynamoDB::Table", "logs:DescribeLogStreams"): "no import",
    ("AWS::DynamoDB::Table", "logs:Put"): "no import",
    ("AWS::DynamoDB::Table", "s3:"): "no import",
    ("AWS::Events::Rule", "iam:PassRole"): "the function's policy lets EventBridge call it",
    ("AWS::IAM::Role", "iam:DeleteRolePermissionsBoundary"): "the boundary stays",
    ("AWS::Lambda::Function", "ec2:"): "no VPC",
    ("AWS::Lambda::Function", "elasticfilesystem:"): "no file system",
    ("AWS::Lambda::Function", "lambda:GetCodeSigningConfig"): "no code signing",
    ("AWS::Lambda::Function", "lambda:GetLayerVersion"): "no layers",
    ("AWS::Lambda::Function", "lambda:PassCapacityProvider"): "no capacity provider",
    ("AWS::Lambda::Function", "s3files:"): "no file system",
    ("AWS::Logs::LogGroup", "firehose:"): "no data protection policy, whose audit this is for",
    ("AWS::Logs::LogGroup", "logs:CreateLogDelivery"): "no data protection policy",
    ("AWS::Logs::LogGroup", "logs:DeleteResourcePolicy"): "no resource policy",
    ("AWS::Logs::LogGroup", "logs:PutResourcePolicy"): "no resource policy",
    ("AWS::Logs::LogGroup", "s3:"): "no data protection policy",
    ("AWS::SNS::Topic", "iam:"): "deliveries are not logged",
}


# The property that names a resource, and where the name stands in the ARN.
NAMED = {
    "AWS::CloudWatch::Alarm": ("AlarmName", "cloudwatch", "alarm:"),
    "AWS::DynamoDB::Table": ("TableName", "dynamodb", "table/"),
    "AWS::Lambda::Function": ("FunctionName", "lambda", "function:"),
    "AWS::Logs::LogGroup": ("LogGroupName", "logs", "log-group:"),
    "AWS::SNS::Topic": ("TopicName", "sns", ""),
    "AWS::SQS::Queue": ("QueueName", "sqs", ""),
}


def named(logical, resource):
    """What Ref and GetAtt Arn give for a resource of the stage dev."""
    kind = resource["Type"]
    if kind in NAMED:
        name, service, prefix = NAMED[kind]
        name = Resolver(TEMPLATE, {"Stage": "dev"}).resolve(resource["Properties"][name])
        own = arn(service, prefix + name)
        return own if kind == "AWS::SNS::Topic" else name, own
    if kind == "AWS::ApiGatewayV2::Api":
        # The HTTP API's name is in its definition.
        api = APIS["dev"]["Name" in resource["Properties"]]
        return api, gateway("/apis/" + api)
    if kind == "AWS::IAM::Role":
        name = f"logstream-dev-{logical}-Abc123"
        return name, iam("role/" + name)
    if kind == "AWS::Events::Rule":
        name = f"logstream-dev-{logical}-Abc123"
        return name, arn("events", "rule/" + name)
    if kind == "AWS::Lambda::EventSourceMapping":
        return "uuid", arn("lambda", "event-source-mapping:uuid")
    return logical, None


NAMES = {name: named(name, resource) for name, resource in TEMPLATE["Resources"].items()}


def values():
    found = {
        "Stage": "dev",
        "AlarmEmail": "you@example.org",
        "HttpDomainName": "http.example.org",
        "WebSocketDomainName": "ws.example.org",
        "PermissionsBoundary": boundary_arn("dev"),
        "AWS::Partition": "aws",
        "AWS::Region": REGION,
        "AWS::AccountId": ACCOUNT,
        "AWS::URLSuffix": "amazonaws.com",
    }
    for name, (ref, own_arn) in NAMES.items():
        found |= {name: ref, f"{name}.Arn": own_arn}
    [table] = [name for name, r in TEMPLATE["Resources"].items() if "StreamSpecification" in r.get("Properties", {})]
    found |= {f"{table}.StreamArn": f"{NAMES[table][1]}/stream/2026-01-01T00:00:00.000"}
    found |= {f"{name}.ApiId": ref for name, (ref, _) in NAMES.items()}
    found |= {f"{name}.QueueName": ref for name, (ref, _) in NAMES.items()}
    return found


RESOLVER = Resolver(TEMPLATE, values())


def requests(logical, resource, handler, action):
    """The resources, with conditions, for which a handler makes a call."""
    kind = resource["Type"].removeprefix("AWS::")
    own = NAMES[logical][1]
    properties = RESOLVER.resolve(resource.get("Properties", {}))
    service = action.partition(":")[0]
    if kind == "Lambda::EventSourceMapping":
        function = arn("lambda", "function:" + properties["FunctionName"])
        return [("*" if action in WITHOUT_RESOURCE else own, {"lambda:FunctionArn": function})]
    if action in WITHOUT_RESOURCE:
        return [("*", {})]
    if kind == "Lambda::Function":
        if action == "iam:PassRole":
            return [(properties["Role"], {"iam:PassedToService": "lambda.amazonaws.com"})]
        return [({"s3": bucket("dev"), "lambda": own}.get(service, "*"), {})]
    if kind in ("Lambda::Permission", "Lambda::EventInvokeConfig"):
        return [(arn("lambda", "function:" + properties["FunctionName"].rpartition(":")[2]), {})]
    if kind == "IAM::Role":
        boundary = {"iam:PermissionsBoundary": properties["PermissionsBoundary"]}
        return [(own, boundary | {"iam:PolicyARN": policy}) for policy in properties["ManagedPolicyArns"]]
    if kind == "CloudWatch::Alarm":
        return [(own, {"cloudwatch:AlarmActions": properties.get("AlarmActions", [])})]
    if kind.startswith("Logs::") and service == "logs":
        # AWS's pages write both.
        group = arn("logs", "log-group:" + properties["LogGroupName"])
        return [(group, {}), (group + ":*", {})]
    if kind.startswith("ApiGatewayV2::") and service == "apigateway":
        if kind == "ApiGatewayV2::Api":
            return [(own, {}), (gateway("/tags/" + own.replace(":", "%3A").replace("/", "%2F")), {})]
        if kind == "ApiGatewayV2::ApiMapping":
            collection = gateway(f"/domainnames/{properties['DomainName']}/apimappings")
        else:
            part = {"Route": "routes", "Integration": "integrations", "Stage": "stages"}[kind.partition("::")[2]]
            collection = gateway(f"/apis/{properties['ApiId']}/{part}")
        return [(collection if action == "apigateway:POST" and handler == "create" else collection + "/part", {})]
    return [(own or "*", {})]


class CloudFormation(unittest.TestCase):
    def test_the_role_allows_what_the_handlers_do(self):
        needless = set(REFUSED)
        for logical, resource in TEMPLATE["Resources"].items():
            kind = resource["Type"]
            stack = DEV
            if kind == "AWS::ApiGatewayV2::ApiMapping":
                stack = DeployStack("dev", AccountRights="allowed")
            schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema(REGION, kind).schema
            # A deploy does not call the list handlers.
            for handler in ("create", "read", "update", "delete"):
                for action in schema["handlers"].get(handler, {}).get("permissions", []):
                    refused = [key for key in REFUSED if key[0] in ("*", kind) and action.startswith(key[1])]
                    needed = [("*", {})] if refused else requests(logical, resource, handler, action)
                    for target, context in needed:
                        with self.subTest(f"{logical} {handler} {action} {target}"):
                            allowed = stack.cloudformation.allows(action, target, context)
                            self.assertEqual(allowed, not refused)
                    needless -= set(refused)
        self.assertEqual(needless, set(), "exceptions that no handler needs")

    def test_an_api_is_made_by_hand(self):
        self.assertFalse(DEV.cloudformation.allows("apigateway:POST", gateway("/apis")))

    def test_the_roles_and_the_boundary_fit_their_quotas(self):
        # IAM does not count white space.
        for role in (DEV.deploy, DEV.cloudformation):
            self.assertLessEqual(len(json.dumps(role.documents, separators=(",", ":"))), 10_240)
        self.assertLessEqual(len(json.dumps(DEV.boundary, separators=(",", ":"))), 6_144)


class Boundary(unittest.TestCase):
    def test_the_functions_policies_are_within_it(self):
        for name, resource in TEMPLATE["Resources"].items():
            if resource["Type"] != "AWS::IAM::Role":
                continue
            for policy in RESOLVER.resolve(resource["Properties"].get("Policies", [])):
                for statement in policy["PolicyDocument"]["Statement"]:
                    for action in as_list(statement["Action"]):
                        for target in as_list(statement["Resource"]):
                            with self.subTest(f"{name} {action} {target}"):
                                self.assertTrue(DEV.function(EVERYTHING).allows(action, target.replace("*", "id")))

    def test_the_managed_policies_work_on_the_stages_log_group_and_stream(self):
        group = arn("logs", "log-group:/photonranch-logstream/dev:log-stream:day/function")
        stream = arn("dynamodb", "table/photonranch-logstream-messages-dev/stream/2026-01-01T00:00:00.000")
        role = DEV.function(EVERYTHING)
        for action in ("logs:CreateLogStream", "logs:PutLogEvents"):
            self.assertTrue(role.allows(action, group), action)
        for action in ("DescribeStream", "GetRecords", "GetShardIterator", "ListStreams"):
            self.assertTrue(role.allows(f"dynamodb:{action}", stream), action)
        for action in ("PutTraceSegments", "PutTelemetryRecords"):
            self.assertTrue(role.allows(f"xray:{action}", "*"), action)


# ── What an attacker can reach ───────────────────────────────────────────────


def belongings(stage):
    """One of everything that a stage has."""
    http_api, websocket_api = APIS[stage]
    table = arn("dynamodb", f"table/photonranch-logstream-messages-{stage}")
    connections = arn("dynamodb", f"table/photonranch-logstream-websocket-connections-{stage}")
    group = arn("logs", f"log-group:/photonranch-logstream/{stage}")
    topic = arn("sns", f"photonranch-logstream-{stage}-alarms")
    function = arn("lambda", f"function:photonranch-logstream-{stage}-newlog")
    apis = [gateway(f"/apis/{api}{part}") for api in (http_api, websocket_api)
            for part in ("", "/routes", "/routes/id", "/integrations/id", "/stages", f"/stages/{stage}", "/cors")]
    return [
        table, f"{table}/index/ConnectionID", f"{table}/stream/2026-01-01T00:00:00.000", f"{table}/backup/id",
        connections, f"{connections}/index/ConnectionID",
        group, f"{group}:*", f"{group}:log-stream:day/function",
        arn("logs", f"log-group:/aws/vendedlogs/photonranch-logstream/{stage}"),
        topic, f"{topic}:subscription-id",
        function, f"{function}:1",
        arn("lambda", f"event-source-mapping:id-of-{stage}"),
        arn("sqs", f"photonranch-logstream-{stage}-failures"),
        arn("events", f"rule/logstream-{stage}-CanaryFunctionSchedule-Abc123"),
        arn("cloudwatch", f"alarm:photonranch-logstream-{stage}-logged-errors"),
        arn("cloudwatch", f"dashboard/photonranch-logstream-{stage}", region=""),
        arn("cloudformation", f"stack/logstream-{stage}/id"),
        *apis, gateway(f"/tags/arn%3Aaws%3Aapigateway%3A{REGION}%3A%3A%2Fapis%2F{http_api}"),
        arn("execute-api", f"{websocket_api}/{stage}/POST/@connections/id"),
        iam(f"role/logstream-{stage}-NewlogFunctionRole-Abc123"),
        bucket(stage),
    ]


# What the account has only once, or what guards a stage.
SHARED = [
    *(iam(f"{kind}/photonranch-logstream-{stage}-{name}") for stage in ("dev", "prod") for kind, name in (
        ("role", "deploy"), ("role", "cloudformation"), ("policy", "boundary"))),
    *(arn("cloudformation", f"stack/{name}/id") for name in (
        "logstream-dev-deploy-role", "logstream-prod-deploy-role", "logstream-domains", "aws-sam-cli-managed-default")),
    iam("policy/own"), iam("role/own"), iam("user/own"), iam("group/own"), iam("root"),
    iam("oidc-provider/token.actions.githubusercontent.com"),
    gateway("/apis"), gateway("/account"), gateway("/domainnames"), gateway("/domainnames/logs.photonranch.org"),
    gateway("/domainnames/logs.photonranch.org/apimappings"),
    gateway("/domainnames/logs.photonranch.org/apimappings/id"),
    "arn:aws:s3:::aws-sam-cli-managed-default-bucket", "*",
]

# What AWS offers no narrower permission for. infra/README.md says what it means.
LEFT = {
    ("logs:DescribeIndexPolicies", "*"),
    ("logs:DescribeLogGroups", "*"),
    ("logs:DescribeResourcePolicies", "*"),
    ("sns:Unsubscribe", "*"),
    ("lambda:GetEventSourceMapping", "event-source-mapping"),
    ("lambda:ListTags", "event-source-mapping"),
    ("lambda:TagResource", "event-source-mapping"),
    ("lambda:UntagResource", "event-source-mapping"),
    # The SAM CLI asks this stack for the name of the bucket.
    ("cloudformation:DescribeStacks", "stack/aws-sam-cli-managed-default"),
}


def actions():
    """What the SDK knows to ask of the services that a stage uses, and what is
    called otherwise in policies."""
    session = boto3.Session(region_name=REGION)
    for service, prefix in {"dynamodbstreams": "dynamodb"}.items() | {
        (name, name) for name in (
            "cloudformation", "cloudwatch", "dynamodb", "events", "iam", "lambda", "logs", "s3", "sns", "sqs", "sts",
        )
    }:
        for operation in session.client(service).meta.service_model.operation_names:
            yield f"{prefix}:{operation}"
    yield from (f"apigateway:{verb}" for verb in ("GET", "POST", "PUT", "PATCH", "DELETE", "SetWebACL"))
    yield from ("iam:PassRole", "lambda:InvokeFunction", "lambda:InvokeFunctionUrl", "s3:ListBucket", "s3:GetObjectVersion")
    yield from (f"logs:{verb}LogDelivery" for verb in ("Create", "Delete", "Get", "Update"))
    yield "logs:ListLogDeliveries"
    yield from ("execute-api:Invoke", "execute-api:ManageConnections", "execute-api:InvalidateCache")


ACTIONS = sorted(set(actions()))


class Attacker(unittest.TestCase):
    # What an attacker may claim, but for the function of a mapping, which AWS knows.
    CONTEXT = {
        "iam:PassedToService": "lambda.amazonaws.com",
        "iam:PermissionsBoundary": boundary_arn("dev"),
        "iam:PolicyARN": "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole",
        "cloudwatch:AlarmActions": [arn("sns", "photonranch-logstream-dev-alarms")],
        "lambda:FunctionArn": arn("lambda", "function:photonranch-logstream-prod-broadcaster"),
    }

    def reached(self, role, targets):
        return {(action, target) for action in ACTIONS for target in targets
                if (action not in WITHOUT_RESOURCE or target == "*") and role.allows(action, target, self.CONTEXT)}

    def test_the_deploy_roles_of_dev_reach_nothing_of_prod(self):
        for role in (DEV.deploy, DEV.cloudformation):
            for action, target in self.reached(role, belongings("prod") + SHARED):
                with self.subTest(f"{action} {target}"):
                    self.assertTrue(any(action == left and where in target for left, where in LEFT))

    def test_a_function_of_dev_with_every_right_reaches_nothing_of_prod(self):
        self.assertEqual(self.reached(DEV.function(EVERYTHING), belongings("prod") + SHARED), set())

    def test_the_same_attempts_on_dev_succeed(self):
        reached = self.reached(DEV.cloudformation, belongings("dev"))
        # DeployRole has the stack, an administrator the dashboard, and functions
        # the connections; a subscription's right is one on "*".
        others = ("cloudformation", "dashboard", "execute-api", "subscription-id")
        expected = {target for target in belongings("dev") if not any(other in target for other in others)}
        self.assertEqual({target for _, target in reached}, expected)
        self.assertGreater(len(reached), 500)
        self.assertIn(("dynamodb:Scan", arn("dynamodb", "table/photonranch-logstream-messages-dev")), reached)

    def test_a_role_can_be_made_or_changed_only_with_the_boundary(self):
        role = iam("role/logstream-dev-Attacker")
        for action in ("CreateRole", "PutRolePolicy", "AttachRolePolicy", "UpdateAssumeRolePolicy",
                       "PutRolePermissionsBoundary"):
            for boundary in (None, boundary_arn("prod"), "arn:aws:iam::aws:policy/AdministratorAccess"):
                with self.subTest(f"{action} {boundary}"):
                    context = {key: value for key, value in self.CONTEXT.items() if key != "iam:PermissionsBoundary"}
                    context |= {"iam:PermissionsBoundary": boundary} if boundary else {}
                    self.assertFalse(DEV.cloudformation.allows(f"iam:{action}", role, context))
            self.assertTrue(DEV.cloudformation.allows(f"iam:{action}", role, self.CONTEXT), action)
        self.assertFalse(DEV.cloudformation.allows("iam:DeleteRolePermissionsBoundary", role, self.CONTEXT))

    def test_only_the_managed_policies_of_sam_can_be_attached(self):
        context = self.CONTEXT | {"iam:PolicyARN": "arn:aws:iam::aws:policy/AdministratorAccess"}
        self.assertFalse(DEV.cloudformation.allows("iam:AttachRolePolicy", iam("role/logstream-dev-x"), context))

    def test_a_role_is_handed_only_to_lambda(self):
        role = iam("role/logstream-dev-x")
        self.assertTrue(DEV.cloudformation.allows("iam:PassRole", role, self.CONTEXT))
        for service in ("ec2", "cloudformation", "apigateway", "states"):
            context = self.CONTEXT | {"iam:PassedToService": f"{service}.amazonaws.com"}
            self.assertFalse(DEV.cloudformation.allows("iam:PassRole", role, context), service)

    def test_an_alarm_may_only_tell_the_stages_topic(self):
        alarm = arn("cloudwatch", "alarm:photonranch-logstream-dev-x")
        for target in (arn("sns", "photonranch-logstream-prod-alarms"), f"arn:aws:automate:{REGION}:ec2:terminate"):
            context = {"cloudwatch:AlarmActions": self.CONTEXT["cloudwatch:AlarmActions"] + [target]}
            self.assertFalse(DEV.cloudformation.allows("cloudwatch:PutMetricAlarm", alarm, context), target)
        self.assertTrue(DEV.cloudformation.allows("cloudwatch:PutMetricAlarm", alarm))

    def test_a_mapping_of_prods_stream_is_of_no_use(self):
        """It can be asked for, but Lambda reads the stream with the function's role."""
        function = {"lambda:FunctionArn": arn("lambda", "function:photonranch-logstream-dev-broadcaster")}
        self.assertTrue(DEV.cloudformation.allows("lambda:CreateEventSourceMapping", "*", function))
        stream = arn("dynamodb", "table/photonranch-logstream-messages-prod/stream/2026-01-01T00:00:00.000")
        self.assertFalse(DEV.function(EVERYTHING).allows("dynamodb:GetRecords", stream))

    def test_what_aws_binds_to_no_stage_is_refused_until_it_is_allowed(self):
        mappings = gateway("/domainnames/logs.photonranch.org/apimappings")
        for action, target in (("apigateway:POST", mappings), ("logs:UpdateLogDelivery", "*")):
            self.assertFalse(DEV.cloudformation.allows(action, target))
            self.assertTrue(DeployStack("dev", AccountRights="allowed").cloudformation.allows(action, target))


def as_list(value):
    return value if isinstance(value, list) else [value]


if __name__ == "__main__":
    unittest.main(verbosity=2)
