"""The configurations below `deploy/` are valid, without a renderer: `make conformance` checks the manifests."""

import json
import re
from pathlib import Path

import pytest

from batcher.config import parse_config
from batcher.scaler.config import load_scaler_config

DEPLOY = Path(__file__).parents[3] / "deploy"
FILES = sorted(DEPLOY.rglob("config.yaml"))
SERVICE_CONFIGS = sorted((DEPLOY / "client").glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_a_configuration_is_valid(path):
    text = path.read_text("utf-8")
    if path.parent.name == "scaler":
        load_scaler_config(path)
    else:
        parse_config(text, environ={"MODEL_NAME": "ranker"}, base_dir=path.parent)


def test_there_are_some():
    assert len(FILES) >= 7
    assert len(SERVICE_CONFIGS) == 2


def test_service_configurations_differ_in_the_balancer_alone():
    first, second = (json.loads(path.read_text("utf-8")) for path in SERVICE_CONFIGS)
    assert first.pop("loadBalancingConfig") != second.pop("loadBalancingConfig")
    assert first == second
    (method,) = first["methodConfig"]
    # Codes with which nothing has been executed, or nothing that would be wrong twice.
    assert method["retryPolicy"]["retryableStatusCodes"] == ["RESOURCE_EXHAUSTED", "UNAVAILABLE"]


def test_the_page_has_the_service_configuration_to_paste():
    page = (DEPLOY.parent / "docs" / "kubernetes.md").read_text("utf-8")
    (block,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert block == (DEPLOY / "client" / "round-robin.json").read_text("utf-8")
