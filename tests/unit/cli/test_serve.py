import logging

import pytest

import batcher.process
from batcher.errors import ConfigError, ListenError, PluginError
from batcher.telemetry.logs import JsonFormatter, TextFormatter

MODELS = "models: [{name: m, executor: emulated}]\n"


@pytest.fixture
def served(monkeypatch):
    """What `batcher.process.serve` was called with; a fake that ends at once, or raises a scripted error."""

    class Served:
        config = None
        path = None
        error = None
        loop = None

    served = Served()

    async def serve(config, path):
        import asyncio

        served.config, served.path = config, path
        served.loop = type(asyncio.get_running_loop()).__module__
        served.formatters = [type(handler.formatter) for handler in logging.getLogger().handlers]
        served.level = logging.getLogger().level
        if served.error is not None:
            raise served.error

    monkeypatch.setattr(batcher.process, "serve", serve)
    return served


def test_a_clean_run_ends_with_0_on_uvloop(run, write, served):
    result = run("serve", write(MODELS))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert served.config.models[0].name == "m"
    assert served.loop == "uvloop"


@pytest.mark.parametrize(
    ("arguments", "level", "formatter"),
    [
        ((), logging.INFO, TextFormatter),
        (("--log-level", "warning", "--log-format", "json"), logging.WARNING, JsonFormatter),
    ],
)
def test_logs_are_as_asked_for(run, write, served, arguments, level, formatter):
    run("serve", write(MODELS), *arguments)
    assert served.level == level
    assert formatter in served.formatters


def test_a_wrong_configuration_ends_with_2_before_anything_starts(run, write, served):
    result = run("serve", write("models: []"))
    assert result.exit_code == 2
    assert "needed: at least one model, or a model_repository" in result.stderr
    assert served.config is None


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ListenError("cannot listen on h:1: in use"), 1, "error: cannot listen on h:1: in use\n"),
        (PluginError("broken"), 1, "error: broken\n"),
        (ConfigError(["x"]), 2, "error: 1 problem in the configuration\n  x\n"),
        (RuntimeError("a bug"), 1, "unexpected error (a defect of batcher): RuntimeError: a bug\n"),
        (KeyboardInterrupt(), 1, "interrupted\n"),
    ],
)
def test_an_error_becomes_one_message_and_a_code(run, write, served, error, code, text):
    served.error = error
    result = run("serve", write(MODELS))
    assert result.exit_code == code
    assert result.stderr == text


def test_debug_adds_the_traceback(run, write, served):
    served.error = ListenError("in use")
    result = run("serve", write(MODELS), "--log-level", "debug")
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("error: in use\n")
