"""Takes the alarms of metric math out of a built template, because the emulator
refuses a stack that has one. template_test.py checks them.

    without_metric_math.py .aws-sam/build/template.yaml
"""

import json
import sys
from pathlib import Path

from samtranslator.yaml_helper import yaml_parse


def main(path):
    path = Path(path)
    template = yaml_parse(path.read_text())
    template["Resources"] = {
        name: resource
        for name, resource in template["Resources"].items()
        if resource["Type"] != "AWS::CloudWatch::Alarm" or "Metrics" not in resource["Properties"]
    }
    # JSON is YAML too.
    path.write_text(json.dumps(template, indent=2))


main(*sys.argv[1:])
