"""Without the extra, a configured section is a clear error; without the section, nothing is imported."""

import os
import subprocess
import sys

import pytest

from batcher.config import TracingConfig
from batcher.errors import ConfigError
from batcher.telemetry.tracing import Tracing, missing_packages, setup, switched_off


def test_the_packages_are_installed_here():
    assert missing_packages() is None


@pytest.mark.parametrize("missing", ["opentelemetry.sdk.trace", "opentelemetry"])
def test_what_is_missing_is_said_with_the_command(monkeypatch, telemetry, missing):
    def find(name):
        if not name.startswith(missing):
            return object()
        if name == missing:
            return None
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(setup, "find_spec", find)
    with pytest.raises(ConfigError, match=r"tracing: .*pip install '\.\[tracing\]'"):
        Tracing(TracingConfig(), telemetry, lambda _: "OK")


def test_nothing_is_imported_without_the_section():
    program = (
        "import sys, batcher.app; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("value", "off"), [("true", True), (" TRUE ", True), ("false", False), ("", False)]
)
def test_the_environment_may_switch_it_off(monkeypatch, value, off):
    monkeypatch.setenv("OTEL_SDK_DISABLED", value)
    assert switched_off() is off


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none of them"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1"),
    ],
)
def test_a_variable_that_opentelemetry_refuses_is_said_in_one_line(name, value):
    program = (
        "from prometheus_client import CollectorRegistry\n"
        "from batcher.config import TracingConfig\n"
        "from batcher.errors import ConfigError\n"
        "from batcher.telemetry import Telemetry\n"
        "from batcher.telemetry.tracing import Tracing\n"
        "try: Tracing(TracingConfig(), Telemetry(CollectorRegistry()), str)\n"
        "except ConfigError as error: print(*error.problems)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, name: value},
    )
    assert "tracing: OpenTelemetry refuses it, or what OTEL_* variables say: " in done.stdout
    assert value in done.stdout
