"""Validates documents on standard input, `[[version, document], ...]`, strictly; prints what is wrong as JSON.

Runs in the environment `kubernetes` of `tools/environments.py`.
"""

import functools
import json
import sys

import kubernetes_validate
from kubernetes_validate import utils

# It reads two megabytes of definitions for every document otherwise.
utils.schema_contents = functools.cache(utils.schema_contents)

problems = []
for version, document in json.load(sys.stdin):
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        place = "/".join(str(each) for each in error.absolute_path)
        problems.append(f"{version} {document['kind']}: {place}: {error.message}"[:300])
    except kubernetes_validate.SchemaNotFoundError as error:
        problems.append(error.message)
json.dump(problems, sys.stdout)
