"""Write schemas of the resources of KEDA, the Prometheus operator and KServe into `.cache/custom_schemas/`.

    python tools/fetch_custom_schemas.py

Those projects publish custom resource definitions with their sources alone. Packages on PyPI hold classes that were
generated from them: their fields become structural schemas here, as a definition has them. The code of the packages is
parsed, never run. Prints the path of the file and exits with 0; or prints the reason on standard error and exits with 1.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / ".cache" / "custom_schemas"

GENERATED = {
    "cloudcoil-models-keda==2.20.2.1": (
        "cloudcoil/models/keda/v1alpha1.py",
        {"ScaledObject": "keda.sh/v1alpha1", "TriggerAuthentication": "keda.sh/v1alpha1"},
    ),
    "cloudcoil-models-prometheus-operator==0.93.1.1": (
        "cloudcoil/models/prometheus_operator/v1.py",
        {
            "PodMonitor": "monitoring.coreos.com/v1",
            "ServiceMonitor": "monitoring.coreos.com/v1",
            "PrometheusRule": "monitoring.coreos.com/v1",
        },
    ),
}
"""Package -> its module of classes, and the kinds in it with their `apiVersion`."""

KSERVE = "kserve==0.21.0"
KSERVE_KINDS = {
    "V1alpha1ServingRuntime": "serving.kserve.io/v1alpha1",
    "V1beta1InferenceService": "serving.kserve.io/v1beta1",
}

Schema = dict[str, Any]
ANYTHING: Schema = {"x-kubernetes-preserve-unknown-fields": True}
SIMPLE = {"str": "string", "int": "integer", "bool": "boolean", "float": "number"}


class CannotFetchError(Exception):
    """The packages cannot be downloaded, or are not what they were; the message says why."""


def wheel(requirement: str, scratch: Path, python: str = "3.14") -> zipfile.ZipFile:
    """The wheel of a package, without what it depends on, for a version of Python that it says to be for."""
    place = scratch / requirement
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place]
    command += ["--only-binary", ":all:", "--python-version", python, requirement]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    except subprocess.CalledProcessError as error:
        words = error.stderr.strip().splitlines()[-2:]
        raise CannotFetchError(f"pip download {requirement}: {' / '.join(words)}") from error
    except subprocess.TimeoutExpired as error:
        raise CannotFetchError(f"pip download {requirement}: not finished after 300 s") from error
    return zipfile.ZipFile(next(place.glob("*.whl")))


class Classes:
    """The classes of a generated module, by name; each is parsed when a field refers to it."""

    def __init__(self, source: str) -> None:
        pieces = re.split(r"^(?=class )", source, flags=re.MULTILINE)[1:]
        self.sources = {re.match(r"class (\w+)", each)[1]: each for each in pieces}  # type: ignore[index]

    def schema(self, name: str) -> Schema:
        """What objects of the class look like in a manifest."""
        (node,) = ast.parse(self.sources[name]).body
        assert isinstance(node, ast.ClassDef)
        if any(ast.unparse(base).startswith("RootModel") for base in node.bases):
            return ANYTHING
        properties, required = {}, []
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                alias, schema = self.of(field.annotation)
                key = alias or field.target.id
                properties[key] = schema
                if field.value is None:
                    required.append(key)
        return {"type": "object", "properties": properties, "required": required}

    def of(self, annotation: ast.expr) -> tuple[str | None, Schema]:
        """The alias, if there is one, and the schema of a field."""
        alias, schema = None, ANYTHING
        match annotation:
            case ast.Subscript(ast.Name("Annotated"), ast.Tuple([inner, *more])):
                alias = next((found for each in more if (found := _alias(each))), None)
                _, schema = self.of(inner)
            case ast.BinOp(left, ast.BitOr(), ast.Constant(None)):
                alias, schema = self.of(left)
            case ast.Subscript(ast.Name("list"), inner):
                schema = {"type": "array", "items": self.of(inner)[1]}
            case ast.Subscript(ast.Name("dict"), ast.Tuple([_, inner])):
                schema = {"type": "object", "additionalProperties": self.of(inner)[1]}
            case ast.Subscript(ast.Name("Literal"), values):
                schema = {"enum": [ast.literal_eval(each) for each in _values(values)]}
            case ast.Name(name) if name in SIMPLE:
                schema = {"type": SIMPLE[name]}
            case ast.Name(name) if name in self.sources:
                schema = self.schema(name)
        return alias, schema


def _values(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _alias(node: ast.expr) -> str | None:
    match node:
        case ast.Call(ast.Name("Field"), keywords=keywords):
            for each in keywords:
                if each.arg == "alias":
                    return str(ast.literal_eval(each.value))
    return None


class KserveModels:
    """The classes of KServe's client: types of their fields, and the names of these in a manifest."""

    def __init__(self, package: zipfile.ZipFile) -> None:
        self.tables: dict[str, tuple[Mapping[str, str], Mapping[str, str]]] = {}
        for path in package.namelist():
            if re.fullmatch(r"kserve/models/v\w+\.py", path):
                for name, types, names in _tables(package.read(path).decode()):
                    self.tables[name] = types, names

    def schema(self, name: str) -> Schema:
        """What objects of the class look like; what is Kubernetes' own is left open."""
        if name in SIMPLE:
            return {"type": SIMPLE[name]}
        if found := re.fullmatch(r"list\[(\w+)\]", name):
            return {"type": "array", "items": self.schema(found[1])}
        if found := re.fullmatch(r"dict\(str, (\w+)\)", name):
            return {"type": "object", "additionalProperties": self.schema(found[1])}
        if name not in self.tables:
            return ANYTHING
        types, names = self.tables[name]
        properties = {names[key]: self.schema(kind) for key, kind in types.items()}
        return {"type": "object", "properties": properties}


def _tables(source: str) -> Iterator[tuple[str, Mapping[str, str], Mapping[str, str]]]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            tables = {
                ast.unparse(each.targets[0]): ast.literal_eval(each.value)
                for each in node.body
                if isinstance(each, ast.Assign)
            }
            yield node.name, tables["openapi_types"], tables["attribute_map"]


def collect() -> dict[str, Schema]:
    """`apiVersion/kind` -> its schema. Raises `CannotFetchError`."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for requirement, (module, kinds) in GENERATED.items():
            classes = Classes(wheel(requirement, Path(name)).read(module).decode())
            for kind, version in kinds.items():
                found[f"{version}/{kind}"] = classes.schema(kind)
        models = KserveModels(wheel(KSERVE, Path(name), "3.12"))
        for kind, version in KSERVE_KINDS.items():
            short = re.sub(r"^V\d[a-z]+\d", "", kind)
            found[f"{version}/{short}"] = models.schema(kind)
    return found


def fetch() -> Path:
    """The path of the file, made if it is not there yet. Raises `CannotFetchError`."""
    # Named for what it is made from, this program included.
    made_from = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    file = FOLDER / f"{made_from}.json"
    if not file.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".part")
        unfinished.write_text(json.dumps(collect()))
        unfinished.rename(file)
    return file


def main() -> int:
    """Fetch and report."""
    try:
        print(fetch())
    except CannotFetchError as error:
        print(f"error: schemas cannot be downloaded: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
