"""Reads a dashboard from standard input as classes of Grafana, and prints what these do not know of it, as JSON.

Runs in an environment with `grafana-foundation-sdk`, and without this project.
"""

import json
import sys

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard


def differences(before, after, path=""):
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key in after:
                yield from differences(value, after[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for one, other in zip(before, after, strict=True):
            yield from differences(one, other, f"{path}[]")
    elif before != after:
        yield path


plugins.register_default_plugins()
document = json.load(sys.stdin)
read = json.loads(json.dumps(Dashboard.from_json(document), cls=JSONEncoder))
json.dump(sorted(set(differences(document, read))), sys.stdout)
