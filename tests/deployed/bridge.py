"""Adds to a stack what AWS would do and the emulator leaves out.

Everything is read from the processed template, never from a copy of it, so
that nothing happens here that the template does not say. Prints the two base
URLs as shell assignments.

    bridge.py STACK
"""

import json
import os
import sys

import boto3

from templates import NO_VALUE, Resolver

ENDPOINT = os.environ["AWS_ENDPOINT_URL"]


def main(stack_name):
    cloudformation = boto3.client("cloudformation")
    body = cloudformation.get_template(StackName=stack_name, TemplateStage="Processed")["TemplateBody"]
    template = body if isinstance(body, dict) else json.loads(body)
    [stack] = cloudformation.describe_stacks(StackName=stack_name)["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    parameters = {name: parameter.get("Default") for name, parameter in template["Parameters"].items()}
    parameters |= {p["ParameterKey"]: p["ParameterValue"] for p in stack.get("Parameters", [])}
    resources = template["Resources"]

    resolver = Resolver(template, parameters)

    http_api(resources["HttpApi"]["Properties"]["Body"], outputs, resolver)
    permissions_boundary(stack_name, resources, resolver)
    time_to_live(resources, outputs)
    stage = parameters["Stage"]
    websocket = f"{ENDPOINT}/_aws/execute-api/{outputs['WebSocketApiId']}/{stage}"
    management_endpoint(resources, outputs, websocket)

    http = f"{ENDPOINT}/_aws/execute-api/{outputs['HttpApiId']}/%24default"
    print(f"LOGSTREAM_HTTP_URL={http}")
    print(f"LOGSTREAM_WS_URL={websocket.replace('http', 'ws', 1)}")


def http_api(body, outputs, resolver):
    """The emulator ignores the OpenAPI body: it makes no routes and no CORS."""
    api = boto3.client("apigatewayv2")
    api_id = outputs["HttpApiId"]
    for route in api.get_routes(ApiId=api_id)["Items"]:
        api.delete_route(ApiId=api_id, RouteId=route["RouteId"])
    for path, methods in body["paths"].items():
        for method, operation in methods.items():
            integration = operation["x-amazon-apigateway-integration"]
            # …/functions/${NewlogFunction.Arn}/invocations
            function = integration["uri"]["Fn::Sub"].split("${")[-1].split(".Arn}")[0]
            target = api.create_integration(
                ApiId=api_id,
                IntegrationType="AWS_PROXY",
                IntegrationUri=function_arn(outputs[f"{function}Name"]),
                PayloadFormatVersion=integration["payloadFormatVersion"],
            )["IntegrationId"]
            route_key = f"{method.upper()} {path}"
            api.create_route(ApiId=api_id, RouteKey=route_key, Target=f"integrations/{target}")
    cors = resolver.resolve(body["x-amazon-apigateway-cors"])
    if cors != NO_VALUE:
        cors = {name[0].upper() + name[1:]: value for name, value in cors.items()}
        api.update_api(ApiId=api_id, CorsConfiguration=cors)
    if not any(stage["StageName"] == "$default" for stage in api.get_stages(ApiId=api_id)["Items"]):
        api.create_stage(ApiId=api_id, StageName="$default", AutoDeploy=True)


def permissions_boundary(stack_name, resources, resolver):
    """The emulator ignores a role's PermissionsBoundary."""
    iam = boto3.client("iam")
    for resource in boto3.client("cloudformation").describe_stack_resources(StackName=stack_name)["StackResources"]:
        if resource["ResourceType"] == "AWS::IAM::Role":
            properties = resources[resource["LogicalResourceId"]]["Properties"]
            boundary = resolver.resolve(properties["PermissionsBoundary"])
            if boundary != NO_VALUE:
                iam.put_role_permissions_boundary(
                    RoleName=resource["PhysicalResourceId"], PermissionsBoundary=boundary)


def time_to_live(resources, outputs):
    """The emulator ignores a table's TimeToLiveSpecification."""
    dynamodb = boto3.client("dynamodb")
    for name in ("MessagesTable", "ConnectionsTable"):
        specification = resources[name]["Properties"]["TimeToLiveSpecification"]
        table = outputs[f"{name}Name"]
        described = dynamodb.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
        if described["TimeToLiveStatus"] != "ENABLED":
            dynamodb.update_time_to_live(TableName=table, TimeToLiveSpecification=specification)


def management_endpoint(resources, outputs, endpoint):
    """The functions' environment names AWS's own address of the management API."""
    functions = boto3.client("lambda")
    for name, resource in resources.items():
        if resource["Type"] != "AWS::Lambda::Function":
            continue
        variables = resource["Properties"]["Environment"]["Variables"]
        if "AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI" in variables:
            function = outputs[f"{name}Name"]
            current = functions.get_function_configuration(FunctionName=function)["Environment"]["Variables"]
            current["AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI"] = endpoint
            functions.update_function_configuration(FunctionName=function, Environment={"Variables": current})


def function_arn(name):
    return boto3.client("lambda").get_function_configuration(FunctionName=name)["FunctionArn"]


main(*sys.argv[1:])
