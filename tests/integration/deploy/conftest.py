"""Overlays of `deploy/` as processes here: their configurations, with paths and ports of a test."""

from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"


@pytest.fixture
def deploy():
    return DEPLOY


@pytest.fixture
def overlay(tmp_path):
    """A function from an overlay to its configuration, whose listeners and folders are here."""

    def read(name, **server):
        text = (DEPLOY / "overlays" / name / "config.yaml").read_text("utf-8")
        text = text.replace("/run/batcher/", f"{tmp_path}/").replace(
            "/var/lib/batcher", f"{tmp_path}"
        )
        config = yaml.safe_load(text)
        assert config["server"]["grpc"].pop(0) == "0.0.0.0:8001"
        assert config["server"].pop("http") == "0.0.0.0:8002"
        if not config["server"]["grpc"]:
            del config["server"]["grpc"]
        config["server"] |= server
        return config

    return read
