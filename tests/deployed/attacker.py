"""Tries, with the deploy roles of dev, to read, change and delete prod, and to
make a role that can. Every attempt must be refused, and the same attempts on
what belongs to dev must not be, so that the script cannot pass for nothing.

    attacker.py

Needs an empty emulator that enforces IAM (AUTH=true), and empties it at the
end. Both stages are stand-ins under the names of template.yaml; the stacks of
infra/deploy-role.yaml are real.

deploy_role_test.py computes from the policies what the emulator does not enforce:

- The condition keys iam:PermissionsBoundary, iam:PolicyARN, lambda:FunctionArn
  and cloudwatch:AlarmActions, which it never sets. So even dev cannot make a
  role or an event source mapping here; the administrator makes the role with
  the boundary instead.
- iam:PassRole: giving a function of dev the role of prod is not tried here.
- Rights on the stream's ARN, on alarms by name and on subscriptions: it asks
  for them on "*".

It also ignores CloudFormation's service role, so this script makes the calls
with that role itself.
"""

import base64
import io
import json
import os
import sys
import urllib.request
import zipfile

import boto3
from botocore.exceptions import ClientError

from templates import source

ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
ADMINISTRATOR = boto3.Session()
ACCOUNT = ADMINISTRATOR.client("sts").get_caller_identity()["Account"]
REGION = ADMINISTRATOR.region_name
PROVIDER = "token.actions.githubusercontent.com"
BUCKET = "aws-sam-cli-managed-default-samclisourcebucket-test"
DOMAIN = "logs.example.org"
DENIED = {"AccessDenied", "AccessDeniedException", "AuthorizationError", "AuthorizationErrorException",
          "UnauthorizedOperation", "NotAuthorized"}
EVERYTHING = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})
ANYBODY = json.dumps({"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}]})
STACK = json.dumps({"Resources": {"Nothing": {"Type": "AWS::CloudFormation::WaitConditionHandle"}}})


def code():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("index.py", "def handler(event, context):\n    return 'prod'\n")
    return file.getvalue()


class Stage:
    """What belongs to a stage, by the names that template.yaml gives."""

    def __init__(self, name):
        client = ADMINISTRATOR.client
        self.name = name
        self.stack = f"logstream-{name}"
        self.table = f"photonranch-logstream-messages-{name}"
        self.group = f"/photonranch-logstream/{name}"
        self.alarm = f"photonranch-logstream-{name}-logged-errors"
        self.function = f"photonranch-logstream-{name}-newlog"
        self.role = f"logstream-{name}-NewlogFunctionRole-Abc123"
        self.package = f"logstream-{name}/package"
        table = client("dynamodb").create_table(
            TableName=self.table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "site", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "site", "KeyType": "HASH"}],
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
        )["TableDescription"]
        self.stream = table["LatestStreamArn"]
        self.item = {"site": {"S": "tst"}}
        client("dynamodb").put_item(TableName=self.table, Item=self.item)
        client("logs").create_log_group(logGroupName=self.group)
        self.queue = client("sqs").create_queue(QueueName=f"photonranch-logstream-{name}-failures")["QueueUrl"]
        self.topic = client("sns").create_topic(Name=f"photonranch-logstream-{name}-alarms")["TopicArn"]
        self.alarm_of(client("cloudwatch"))
        trust = ANYBODY.replace(f'"AWS": "arn:aws:iam::{ACCOUNT}:root"', '"Service": "lambda.amazonaws.com"')
        role = client("iam").create_role(RoleName=self.role, AssumeRolePolicyDocument=trust)["Role"]
        client("iam").put_role_policy(RoleName=self.role, PolicyName="own", PolicyDocument=EVERYTHING)
        client("lambda").create_function(
            FunctionName=self.function, Runtime="python3.13", Handler="index.handler", Role=role["Arn"],
            Code={"ZipFile": code()})
        client("lambda").get_waiter("function_active_v2").wait(
            FunctionName=self.function, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        gateway = client("apigatewayv2")
        self.apis = [
            gateway.create_api(Name=f"photonranch-logstream-{name}", ProtocolType="HTTP")["ApiId"],
            gateway.create_api(Name=f"photonranch-logstream-websocket-{name}", ProtocolType="WEBSOCKET",
                               RouteSelectionExpression="$request.body.action")["ApiId"],
        ]
        for api in self.apis:
            gateway.create_route(ApiId=api, RouteKey="$default")
            gateway.create_stage(ApiId=api, StageName=name)
        client("s3").put_object(Bucket=BUCKET, Key=self.package, Body=b"code")
        client("cloudformation").create_stack(StackName=self.stack, TemplateBody=STACK)
        client("cloudformation").create_stack(
            StackName=f"{self.stack}-deploy-role",
            TemplateBody=source("infra/deploy-role.yaml"),
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in {
                "Stage": name,
                "Repository": "owner/name",
                "OidcProviderArn": f"arn:aws:iam::{ACCOUNT}:oidc-provider/{PROVIDER}",
                "HttpApiId": self.apis[0],
                "WebSocketApiId": self.apis[1],
            }.items()],
        )
        client("cloudformation").get_waiter("stack_create_complete").wait(
            StackName=f"{self.stack}-deploy-role", WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        [stack] = client("cloudformation").describe_stacks(StackName=f"{self.stack}-deploy-role")["Stacks"]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        self.deploy_role = outputs["DeployRoleArn"]
        self.cloudformation_role = outputs["CloudFormationRoleArn"]
        self.boundary = outputs["PermissionsBoundaryArn"]
        role = client("iam").get_role(RoleName=self.deploy_role.rpartition("/")[2])["Role"]
        [trust] = role["AssumeRolePolicyDocument"]["Statement"]
        self.subject = trust["Condition"]["StringEquals"][f"{PROVIDER}:sub"]

    def alarm_of(self, client):
        return client.put_metric_alarm(
            AlarmName=self.alarm, Namespace="x", MetricName="x", Statistic="Sum", Period=300, EvaluationPeriods=1,
            Threshold=1, ComparisonOperator="GreaterThanOrEqualToThreshold")

    def management(self, client):
        endpoint = f"{ENDPOINT}/_aws/execute-api/{self.apis[1]}/{self.name}"
        return client("apigatewaymanagementapi", endpoint_url=endpoint)

    def seen(self):
        """What an attack would change."""
        client = ADMINISTRATOR.client
        gateway = client("apigatewayv2")
        return without_metadata([
            client("dynamodb").describe_table(TableName=self.table),
            client("dynamodb").scan(TableName=self.table),
            client("logs").describe_log_groups(logGroupNamePrefix=self.group),
            client("logs").describe_log_streams(logGroupName=self.group),
            client("sqs").get_queue_attributes(QueueUrl=self.queue, AttributeNames=["All"]),
            client("sns").get_topic_attributes(TopicArn=self.topic),
            client("cloudwatch").describe_alarms(AlarmNames=[self.alarm]),
            client("lambda").get_function_configuration(FunctionName=self.function),
            *(call(ApiId=api) for api in self.apis for call in (
                gateway.get_api, gateway.get_routes, gateway.get_integrations, gateway.get_stages)),
            gateway.get_api_mappings(DomainName=DOMAIN),
            client("s3").head_object(Bucket=BUCKET, Key=self.package)["ETag"],
            client("iam").get_role(RoleName=self.role)["Role"]["AssumeRolePolicyDocument"],
            client("iam").list_role_policies(RoleName=self.role),
            client("cloudformation").describe_stacks(StackName=self.stack),
            client("cloudformation").get_template(StackName=self.stack),
        ])


def without_metadata(answers):
    return [{key: value for key, value in answer.items() if key != "ResponseMetadata"}
            if isinstance(answer, dict) else answer for answer in answers]


# Each attempt takes a function that gives a client, and the stage that is
# attacked. Those that delete come last, because dev's succeed.
DATA = {
    "read a table": lambda c, s: c("dynamodb").scan(TableName=s.table),
    "read a row": lambda c, s: c("dynamodb").get_item(TableName=s.table, Key=s.item),
    "write a row": lambda c, s: c("dynamodb").put_item(TableName=s.table, Item={"site": {"S": "attacker"}}),
    "delete a row": lambda c, s: c("dynamodb").delete_item(TableName=s.table, Key={"site": {"S": "attacker"}}),
    "fill the queue": lambda c, s: c("sqs").send_message(QueueUrl=s.queue, MessageBody="x"),
    "write to the logs": lambda c, s: c("logs").create_log_stream(logGroupName=s.group, logStreamName="attacker"),
}
VIEWERS = {
    "post to a viewer": lambda c, s: s.management(c).post_to_connection(ConnectionId="viewer", Data=b"x"),
    "close a viewer": lambda c, s: s.management(c).delete_connection(ConnectionId="viewer"),
}
# The emulator asks for these on "*", so dev's fail too.
UNNAMED = {
    "read the stream": lambda c, s: c("dynamodbstreams").describe_stream(StreamArn=s.stream),
    "delete an alarm": lambda c, s: c("cloudwatch").delete_alarms(AlarmNames=[s.alarm]),
}
CONTROL = {
    "describe a table": lambda c, s: c("dynamodb").describe_table(TableName=s.table),
    "change a table": lambda c, s: c("dynamodb").update_table(TableName=s.table, BillingMode="PAY_PER_REQUEST"),
    "read the queue": lambda c, s: c("sqs").receive_message(QueueUrl=s.queue),
    "change the queue": lambda c, s: c("sqs").set_queue_attributes(
        QueueUrl=s.queue, Attributes={"MessageRetentionPeriod": "60"}),
    "read a function": lambda c, s: c("lambda").get_function(FunctionName=s.function),
    "call a function": lambda c, s: c("lambda").invoke(FunctionName=s.function, InvocationType="DryRun"),
    "change a function's code": lambda c, s: c("lambda").update_function_code(FunctionName=s.function, ZipFile=code()),
    "change a function": lambda c, s: c("lambda").update_function_configuration(FunctionName=s.function, Timeout=9),
    "let others call a function": lambda c, s: c("lambda").add_permission(
        FunctionName=s.function, StatementId="x", Action="lambda:InvokeFunction", Principal="*"),
    "give a function a URL": lambda c, s: c("lambda").create_function_url_config(
        FunctionName=s.function, AuthType="NONE"),
    "tag a function": lambda c, s: c("lambda").tag_resource(
        Resource=f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{s.function}", Tags={"a": "b"}),
    "read the logs": lambda c, s: c("logs").filter_log_events(logGroupName=s.group),
    "keep the logs shorter": lambda c, s: c("logs").put_retention_policy(logGroupName=s.group, retentionInDays=1),
    "read the topic": lambda c, s: c("sns").get_topic_attributes(TopicArn=s.topic),
    "list the subscribers": lambda c, s: c("sns").list_subscriptions_by_topic(TopicArn=s.topic),
    "subscribe": lambda c, s: c("sns").subscribe(TopicArn=s.topic, Protocol="email", Endpoint="x@example.org"),
    "publish": lambda c, s: c("sns").publish(TopicArn=s.topic, Message="x"),
    "read the package": lambda c, s: c("s3").get_object(Bucket=BUCKET, Key=s.package),
    "read a role": lambda c, s: c("iam").get_role(RoleName=s.role),
    **{f"{verb}, {kind} API": (lambda c, s, call=call, index=index: call(c("apigatewayv2"), s.apis[index], s))
       for index, kind in enumerate(("HTTP", "WebSocket")) for verb, call in {
           "read": lambda g, api, s: g.get_api(ApiId=api),
           "read the routes": lambda g, api, s: g.get_routes(ApiId=api),
           "change the description": lambda g, api, s: g.update_api(ApiId=api, Description="x"),
           "make a route": lambda g, api, s: g.create_route(
               ApiId=api, RouteKey="attack" if api == s.apis[1] else "GET /x"),
           "make an integration": lambda g, api, s: g.create_integration(
               ApiId=api, IntegrationType="HTTP_PROXY", IntegrationMethod="ANY", PayloadFormatVersion="1.0",
               IntegrationUri="https://attacker.example.org"),
           "change the throttle": lambda g, api, s: g.update_stage(
               ApiId=api, StageName=s.name, DefaultRouteSettings={"ThrottlingRateLimit": 1, "ThrottlingBurstLimit": 1}),
           "tag": lambda g, api, s: g.tag_resource(
               ResourceArn=f"arn:aws:apigateway:{REGION}::/apis/{api}", Tags={"a": "b"}),
           "delete the stage": lambda g, api, s: g.delete_stage(ApiId=api, StageName=s.name),
           "delete": lambda g, api, s: g.delete_api(ApiId=api),
       }.items()},
    "change an alarm": lambda c, s: s.alarm_of(c("cloudwatch")),
    "delete the function": lambda c, s: c("lambda").delete_function(FunctionName=s.function),
    "delete the logs": lambda c, s: c("logs").delete_log_group(logGroupName=s.group),
    "delete the topic": lambda c, s: c("sns").delete_topic(TopicArn=s.topic),
    "delete the queue": lambda c, s: c("sqs").delete_queue(QueueUrl=s.queue),
    "take a role's policy": lambda c, s: c("iam").delete_role_policy(RoleName=s.role, PolicyName="own"),
    "delete a role": lambda c, s: c("iam").delete_role(RoleName=s.role),
    "delete a table": lambda c, s: c("dynamodb").delete_table(TableName=s.table),
}
# The SAM CLI uploads, and CloudFormation reads.
DEPLOY = {
    "read the package": CONTROL["read the package"],
    "replace the package": lambda c, s: c("s3").put_object(Bucket=BUCKET, Key=s.package, Body=b"code"),
    "read the stack": lambda c, s: c("cloudformation").describe_stacks(StackName=s.stack),
    "read the stack's events": lambda c, s: c("cloudformation").describe_stack_events(StackName=s.stack),
    "change the stack": lambda c, s: c("cloudformation").create_change_set(
        StackName=s.stack, ChangeSetName="attack", TemplateBody=STACK.replace("Nothing", "Other")),
    "carry out the change": lambda c, s: c("cloudformation").execute_change_set(
        StackName=s.stack, ChangeSetName="attack"),
}
# Nobody of dev may do these, not even to dev: no role of the account may be
# made, taken over or freed of its boundary, and no path of a domain moved.
NEVER = {
    "make a role without the boundary": lambda c, s: c("iam").create_role(
        RoleName="logstream-dev-attacker", AssumeRolePolicyDocument=ANYBODY),
    "make a role with another boundary": lambda c, s: c("iam").create_role(
        RoleName="logstream-dev-attacker", AssumeRolePolicyDocument=ANYBODY,
        PermissionsBoundary="arn:aws:iam::aws:policy/AdministratorAccess"),
    "make a role of another name": lambda c, s: c("iam").create_role(
        RoleName="attacker", AssumeRolePolicyDocument=ANYBODY, PermissionsBoundary=s.boundary),
    "give a role without the boundary every right": lambda c, s: c("iam").put_role_policy(
        RoleName=s.role, PolicyName="all", PolicyDocument=EVERYTHING),
    "make a role an administrator": lambda c, s: c("iam").attach_role_policy(
        RoleName=s.role, PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess"),
    "take over a role without the boundary": lambda c, s: c("iam").update_assume_role_policy(
        RoleName=s.role, PolicyDocument=ANYBODY),
    "take the boundary off": lambda c, s: c("iam").delete_role_permissions_boundary(RoleName=s.role),
    "put another boundary on": lambda c, s: c("iam").put_role_permissions_boundary(
        RoleName=s.role, PermissionsBoundary="arn:aws:iam::aws:policy/AdministratorAccess"),
    "widen the boundary": lambda c, s: c("iam").create_policy_version(
        PolicyArn=s.boundary, PolicyDocument=EVERYTHING, SetAsDefault=True),
    "delete the boundary": lambda c, s: c("iam").delete_policy(PolicyArn=s.boundary),
    "make a policy": lambda c, s: c("iam").create_policy(PolicyName="attacker", PolicyDocument=EVERYTHING),
    "make a user": lambda c, s: c("iam").create_user(UserName="attacker"),
    "make a key": lambda c, s: c("iam").create_access_key(UserName="attacker"),
    **{f"{verb} {name}": (lambda c, s, name=name, call=call: call(c("iam"), getattr(s, name).rpartition("/")[2]))
       for name in ("deploy_role", "cloudformation_role") for verb, call in {
           "give every right to": lambda i, role: i.put_role_policy(
               RoleName=role, PolicyName="all", PolicyDocument=EVERYTHING),
           "attach AdministratorAccess to": lambda i, role: i.attach_role_policy(
               RoleName=role, PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess"),
           "open": lambda i, role: i.update_assume_role_policy(RoleName=role, PolicyDocument=ANYBODY),
           "delete": lambda i, role: i.delete_role(RoleName=role),
       }.items()},
    "become the deploy role": lambda c, s: c("sts").assume_role(RoleArn=s.deploy_role, RoleSessionName="attacker"),
    "become CloudFormation": lambda c, s: c("sts").assume_role(RoleArn=s.cloudformation_role, RoleSessionName="attacker"),
    "trust another repository": lambda c, s: c("iam").add_client_id_to_open_id_connect_provider(
        OpenIDConnectProviderArn=f"arn:aws:iam::{ACCOUNT}:oidc-provider/{PROVIDER}", ClientID="attacker"),
    "change the stack of the roles": lambda c, s: c("cloudformation").create_change_set(
        StackName=f"{s.stack}-deploy-role", ChangeSetName="attack", TemplateBody=STACK),
    "delete the stack of the roles": lambda c, s: c("cloudformation").delete_stack(
        StackName=f"{s.stack}-deploy-role"),
    "make a stack": lambda c, s: c("cloudformation").create_stack(StackName="attacker", TemplateBody=STACK),
    "read the paths of the domain": lambda c, s: c("apigatewayv2").get_api_mappings(DomainName=DOMAIN),
    "take a path of the domain": lambda c, s: c("apigatewayv2").create_api_mapping(
        DomainName=DOMAIN, ApiMappingKey="logs/newlog", ApiId=s.apis[0], Stage=s.name),
    "move the path of prod": lambda c, s: c("apigatewayv2").update_api_mapping(
        DomainName=DOMAIN, ApiMappingId=s.mapping, ApiId=s.apis[0], Stage=s.name),
    "delete the path of prod": lambda c, s: c("apigatewayv2").delete_api_mapping(
        DomainName=DOMAIN, ApiMappingId=s.mapping),
    "make an API": lambda c, s: c("apigatewayv2").create_api(Name="attacker", ProtocolType="HTTP"),
    "list the APIs": lambda c, s: c("apigatewayv2").get_apis(),
    "list the tables": lambda c, s: c("dynamodb").list_tables(),
    "list the functions": lambda c, s: c("lambda").list_functions(),
    "list the mappings": lambda c, s: c("lambda").list_event_source_mappings(),
    "list the subscriptions": lambda c, s: c("sns").list_subscriptions(),
    "list the packages": lambda c, s: c("s3").list_objects_v2(Bucket=BUCKET),
}


class Script:
    def __init__(self):
        self.wrong = 0
        self.attempts = 0

    def expect(self, refused, who, session, what, attempt, stage):
        self.attempts += 1
        try:
            attempt(session.client, stage)
            result = "allowed"
        except ClientError as error:
            result = error.response["Error"]["Code"]
        if (result in DENIED) != refused:
            self.wrong += 1
            print(f"WRONG  {who}: {what} ({stage.name}): {result}")


def web_identity(subject):
    """A token of GitHub's, whose signature the emulator does not check."""
    claims = {"iss": f"https://{PROVIDER}", "aud": "sts.amazonaws.com", "sub": subject}
    parts = ({"alg": "none"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + ".x"


def from_github(role, subject):
    return session_of(ADMINISTRATOR.client("sts").assume_role_with_web_identity(
        RoleArn=role, RoleSessionName="attacker", WebIdentityToken=web_identity(subject)))


def assumed(role):
    """A session of a role that trusts a service; the administrator opens it."""
    ADMINISTRATOR.client("iam").update_assume_role_policy(RoleName=role.rpartition("/")[2], PolicyDocument=ANYBODY)
    return session_of(ADMINISTRATOR.client("sts").assume_role(RoleArn=role, RoleSessionName="attacker"))


def session_of(answer):
    credentials = answer["Credentials"]
    return boto3.Session(
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials["SessionToken"],
    )


def main():
    client = ADMINISTRATOR.client
    client("iam").create_open_id_connect_provider(Url=f"https://{PROVIDER}", ClientIDList=["sts.amazonaws.com"])
    client("s3").create_bucket(Bucket=BUCKET)
    dev, prod = Stage("dev"), Stage("prod")
    gateway = client("apigatewayv2")
    gateway.create_domain_name(DomainName=DOMAIN, DomainNameConfigurations=[
        {"EndpointType": "REGIONAL", "CertificateArn": f"arn:aws:acm:{REGION}:{ACCOUNT}:certificate/x"}])
    # Both stages share the domain.
    dev.mapping = prod.mapping = gateway.create_api_mapping(
        DomainName=DOMAIN, ApiMappingKey="logs", ApiId=prod.apis[0], Stage="prod")["ApiMappingId"]

    script = Script()
    strangers = (prod.subject, dev.subject.replace("owner/", "attacker/"), f"{dev.subject}x")
    for stage, subjects in ((dev, strangers), (prod, [dev.subject])):
        for subject in subjects:
            script.expect(True, subject, ADMINISTRATOR, "become the deploy role",
                          lambda c, s, subject=subject: from_github(s.deploy_role, subject), stage)

    # A function can be given any policy, but not another boundary. The
    # administrator makes the role as CloudFormation would.
    client("iam").create_role(
        RoleName="logstream-dev-Worst", AssumeRolePolicyDocument=ANYBODY, PermissionsBoundary=dev.boundary)
    client("iam").put_role_policy(RoleName="logstream-dev-Worst", PolicyName="all", PolicyDocument=EVERYTHING)
    # The administrator of the emulator is not held by any policy; this role shows
    # that the attempts would succeed without the boundary.
    client("iam").create_role(RoleName="logstream-dev-Unbounded", AssumeRolePolicyDocument=ANYBODY)
    client("iam").put_role_policy(RoleName="logstream-dev-Unbounded", PolicyName="all", PolicyDocument=EVERYTHING)
    unbounded = assumed(f"arn:aws:iam::{ACCOUNT}:role/logstream-dev-Unbounded")

    before = prod.seen()
    everything = UNNAMED | VIEWERS | DATA | CONTROL | DEPLOY
    # In this order, because what the first may do to dev deletes it.
    sessions = {
        "CloudFormationRole": (assumed(dev.cloudformation_role), DATA | CONTROL),
        "DeployRole": (from_github(dev.deploy_role, dev.subject), DEPLOY),
        "a function": (assumed(f"arn:aws:iam::{ACCOUNT}:role/logstream-dev-Worst"), DATA | VIEWERS),
    }
    for who, (session, _) in sessions.items():
        for what, attempt in everything.items():
            script.expect(True, who, session, what, attempt, prod)
        for what, attempt in NEVER.items():
            for stage in (dev, prod):
                script.expect(True, who, session, what, attempt, stage)
    if not script.wrong and prod.seen() != before:
        script.wrong += 1
        print("WRONG  prod has changed")
    for who, (session, own) in reversed(sessions.items()):
        for what, attempt in own.items():
            script.expect(False, who, session, what, attempt, dev)
    for what, attempt in (everything | NEVER).items():
        script.expect(False, "a function without the boundary", unbounded, what, attempt, prod)

    urllib.request.urlopen(urllib.request.Request(f"{ENDPOINT}/_ministack/reset", method="POST"), timeout=60)
    if script.wrong:
        sys.exit(f"{script.wrong} of {script.attempts} attempts went wrong")
    print(f"{script.attempts} attempts: all of the attacker's were refused, and the others were not")


main()
