"""What a stage's deploy roles allow, read from infra/deploy-role.yaml.

The evaluation is the emulator's own, but with the condition keys that AWS sets
and the emulator's services do not.
"""

from ministack.core.iam_evaluator import EvalContext, evaluate, parse_policy_document
from samtranslator.yaml_helper import yaml_parse

from templates import Resolver, source

ACCOUNT = "000000000000"
REGION = "us-east-1"
APIS = {"dev": ("dev0http00", "dev0socket"), "prod": ("prd0http00", "prd0socket")}


def boundary_arn(stage):
    return f"arn:aws:iam::{ACCOUNT}:policy/photonranch-logstream-{stage}-boundary"


class Policy:
    """Documents, one of which must allow, and perhaps a boundary, which must too."""

    def __init__(self, documents, boundary=None):
        self.documents = documents
        self.parsed = [parse_policy_document(document) for document in documents]
        self.limits = [[parse_policy_document(boundary)]] if boundary else []

    def allows(self, action, resource, context=()):
        request = EvalContext(
            principal_arn=f"arn:aws:sts::{ACCOUNT}:assumed-role/role/session",
            principal_type="AssumedRole",
            principal_account=ACCOUNT,
            action=action,
            resource_arn=resource,
            region=REGION,
            source_ip="127.0.0.1",
            secure_transport=True,
            service_context={key.lower(): value for key, value in dict(context).items()},
        )
        return evaluate(request, self.parsed, *self.limits).decision == "Allow"


class DeployStack:
    """The stack of infra/deploy-role.yaml for a stage."""

    def __init__(self, stage, **parameters):
        template = yaml_parse(source("infra/deploy-role.yaml"))
        http_api, websocket_api = APIS[stage]
        role = f"arn:aws:iam::{ACCOUNT}:role/photonranch-logstream-{stage}"
        resolver = Resolver(template, {
            "AWS::Partition": "aws",
            "AWS::Region": REGION,
            "AWS::AccountId": ACCOUNT,
            "Stage": stage,
            "Repository": "owner/name",
            "HttpApiId": http_api,
            "WebSocketApiId": websocket_api,
            "OidcProvider": "provider",
            "Boundary": boundary_arn(stage),
            "CloudFormationRole.Arn": f"{role}-cloudformation",
            "DeployRole.Arn": f"{role}-deploy",
        } | parameters)
        resources = resolver.resolve(template["Resources"])
        self.boundary = resources["Boundary"]["Properties"]["PolicyDocument"]
        self.deploy = self.role(resources["DeployRole"])
        self.cloudformation = self.role(resources["CloudFormationRole"])

    def role(self, resource):
        return Policy([policy["PolicyDocument"] for policy in resource["Properties"]["Policies"]])

    def function(self, *documents):
        """A function's role with the boundary on it."""
        return Policy(documents, self.boundary)
