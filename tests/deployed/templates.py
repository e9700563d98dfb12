"""The templates as CloudFormation reads them."""

import re
from pathlib import Path

import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

ROOT = Path(__file__).resolve().parents[2]
NO_VALUE = {"Ref": "AWS::NoValue"}


def source(path):
    return (ROOT / path).read_text()


def transform(**given):
    """The template as CloudFormation gets it from SAM, with these parameters."""
    template = yaml_parse(source("template.yaml"))
    for function in [template["Globals"]["Function"], template["Resources"]["CanaryFunction"]["Properties"]]:
        function["CodeUri"] = "s3://bucket/key"
    parameters = {name: parameter["Default"] for name, parameter in template["Parameters"].items()}
    # What the translator would ask IAM for.
    names = ["AWSLambdaBasicExecutionRole", "AWSLambdaDynamoDBExecutionRole"]
    policies = {name: f"arn:aws:iam::aws:policy/service-role/{name}" for name in names}
    parameters |= given
    session = boto3.Session(region_name="us-east-1")
    return Translator(policies, Parser(), boto_session=session).translate(template, parameters)


class Resolver:
    """Resolves intrinsic functions. `values` holds the parameters, the pseudo
    parameters, and what Ref and GetAtt (as Name.Attribute) give for resources."""

    def __init__(self, template, values):
        self.template = template
        defaults = {name: p["Default"] for name, p in template.get("Parameters", {}).items() if "Default" in p}
        self.values = defaults | values

    def holds(self, condition):
        return self.resolve(self.template["Conditions"][condition])

    def resolve(self, value):
        if isinstance(value, list):
            return [self.resolve(item) for item in value if self.resolve(item) != NO_VALUE]
        if not isinstance(value, dict) or value == NO_VALUE:
            return value
        match list(value.items()):
            case [("Ref", name)]:
                return self.values[name]
            case [("Fn::GetAtt", name)]:
                return self.values[name if isinstance(name, str) else ".".join(name)]
            case [("Fn::Sub", str(text))]:
                return self.substitute(text, {})
            case [("Fn::Sub", [text, more])]:
                return self.substitute(text, self.resolve(more))
            case [("Fn::Join", [separator, parts])]:
                return separator.join(self.resolve(parts))
            case [("Fn::Split", [separator, text])]:
                return self.resolve(text).split(separator)
            case [("Fn::FindInMap", keys)]:
                name, first, second = self.resolve(keys)
                return self.template["Mappings"][name][first][second]
            case [("Fn::If", [condition, yes, no])]:
                return self.resolve(yes if self.holds(condition) else no)
            case [("Fn::Equals", both)]:
                left, right = self.resolve(both)
                return left == right
            case [("Fn::Not", [condition])]:
                return not self.resolve(condition)
            case [("Fn::And", conditions)]:
                return all(self.resolve(conditions))
            case [("Fn::Or", conditions)]:
                return any(self.resolve(conditions))
            case [("Condition", name)]:
                return self.holds(name)
        resolved = {key: self.resolve(item) for key, item in value.items()}
        return {key: item for key, item in resolved.items() if item != NO_VALUE}

    def substitute(self, text, more):
        return re.sub(r"\$\{([^}!]+)\}", lambda found: (self.values | more)[found[1]], text)
