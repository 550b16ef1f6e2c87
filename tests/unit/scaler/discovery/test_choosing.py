"""The key `replicas`: what it takes, and what finds the replicas then."""

import importlib

import pytest
from pydantic import ValidationError

from batcher.errors import StartupError
from batcher.scaler.discovery import ReplicasConfig, discovery_of
from batcher.scaler.discovery.config import parse_name
from batcher.scaler.discovery.kubernetes.sliced import SlicedReplicas
from batcher.scaler.discovery.looking import MAX_REPLICAS
from batcher.scaler.discovery.named import NamedReplicas
from batcher.scaler.discovery.static import StaticDiscovery

SLICES = {"service": "ranker", "namespace": "ml", "port": "grpc"}


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"static": ["10.0.0.1:8001"]}, StaticDiscovery),
        ({"dns": "ranker.ml:8001"}, NamedReplicas),
        ({"endpoint_slices": SLICES}, SlicedReplicas),
        ({"endpoint_slices": {"service": "ranker", "port": 8001}}, SlicedReplicas),
    ],
)
def test_each_key_has_its_own(given, kind):
    assert isinstance(discovery_of(ReplicasConfig.model_validate(given)), kind)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "exactly one"),
        ({"static": ["a:1"], "dns": "a:1"}, "exactly one"),
        ({"static": []}, "at least one"),
        ({"static": ["a:0"]}, "a:0 has none"),
        ({"static": ["a:1"] * (MAX_REPLICAS + 1)}, "at most 1000"),
        ({"dns": "a"}, "name:port"),
        ({"dns": "a:0"}, "a port from 1"),
        ({"dns": "a:65536"}, "a port from 1"),
        ({"dns": "10.0.0.1:8001"}, "belong into static"),
        ({"dns": "[::1]:8001"}, "name:port"),
        ({"dns": "a..b:1"}, "name:port"),
        ({"dns": ".:1"}, "name:port"),
        ({"dns": f"{'a' * 64}:1"}, "name:port"),
        ({"dns": f"{'a.' * 127}a:1"}, "name:port"),
        ({"dns": "unix:/run/a.sock"}, "name:port"),
        ({"endpoint_slices": {**SLICES, "service": "../secrets"}}, "lower-case"),
        ({"endpoint_slices": {**SLICES, "namespace": "a/b"}}, "lower-case"),
        ({"endpoint_slices": {**SLICES, "service": "a,b=c"}}, "lower-case"),
        ({"endpoint_slices": {**SLICES, "port": 0}}, "greater than or equal to 1"),
        ({"endpoint_slices": {"service": "a"}}, "port"),
    ],
)
def test_what_is_wrong_is_said(given, said):
    with pytest.raises(ValidationError, match=said):
        ReplicasConfig.model_validate(given)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ranker:1", "ranker"),
        ("ranker-headless.ml.svc.cluster.local.:1", "ranker-headless.ml.svc.cluster.local."),
        ("_grpc._tcp.a1:1", "_grpc._tcp.a1"),
    ],
)
def test_names(text, name):
    assert parse_name(text) == (name, 1)


@pytest.mark.parametrize(
    ("given", "module"),
    [
        ({"dns": "ranker:1"}, "batcher.scaler.discovery.named"),
        ({"endpoint_slices": SLICES}, "batcher.scaler.discovery.kubernetes.sliced"),
    ],
)
def test_a_library_that_is_missing_is_named(monkeypatch, given, module):
    def without(name):
        assert name == module
        raise ImportError("No module named 'it'")

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(StartupError, match=r"No module named 'it'.*pip install '\.\[scaler\]'"):
        discovery_of(ReplicasConfig.model_validate(given))
