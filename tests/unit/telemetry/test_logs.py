from __future__ import annotations

import io
import json
import logging

import pytest

from batcher.telemetry import configure_logging

logger = logging.getLogger("batcher.somewhere")


@pytest.fixture
def logs():
    """Configures logging into a stream of ours, and puts everything back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # `force` closes what it replaces, and pytest still needs its own handlers.
    root.handlers = []
    stream = io.StringIO()

    def configure(level, fmt):
        configure_logging(level, fmt, stream)
        return stream

    yield configure
    root.handlers = handlers
    root.setLevel(level)


def test_json_is_one_object_a_line_with_the_fields(logs):
    stream = logs("info", "json")
    logger.info("loaded %s", "it", extra={"model": "m", "rows": 3, "path": io})
    logger.warning("two\nlines")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("time").endswith("Z")
    assert first.pop("path").startswith("<module 'io'")
    assert first == {
        "level": "info",
        "logger": "batcher.somewhere",
        "message": "loaded it",
        "model": "m",
        "rows": 3,
    }
    assert second["message"] == "two\nlines"


def test_a_field_cannot_pose_as_the_level(logs):
    stream = logs("info", "json")
    logger.error("true", extra={"level": "info", "time": "never"})
    line = json.loads(stream.getvalue())
    assert line["level"] == "error"
    assert line["time"] != "never"


def test_json_carries_the_traceback_inside_the_line(logs):
    stream = logs("info", "json")
    try:
        int("no")
    except ValueError:
        logger.exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: invalid literal" in json.loads(line)["exception"]


def test_text_shows_fields_and_quotes_where_it_must(logs):
    stream = logs("INFO", "text")
    logger.info("model loaded", extra={"model": "m", "reason": "took long", "empty": ""})
    moment, rest = stream.getvalue().rstrip().split(" ", 1)
    assert moment.endswith("Z")
    assert rest == ('INFO    batcher.somewhere: model loaded model=m reason="took long" empty=""')


def test_a_callers_text_cannot_pose_as_a_second_record(logs):
    stream = logs("info", "text")
    logger.info("unknown model %s", "x\n2026 ERROR", extra={"tenant": "a\r\nb"})
    assert stream.getvalue().count("\n") == 1


def test_text_puts_the_traceback_below(logs):
    stream = logs("info", "text")
    try:
        int("no")
    except ValueError:
        logger.exception("failed")
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith("failed")
    assert lines[-1].startswith("ValueError: invalid literal")


def test_the_level_is_a_threshold(logs):
    stream = logs("warning", "text")
    logger.info("quiet")
    logger.warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_an_unknown_level_is_an_error(logs):
    with pytest.raises(ValueError, match="LOUD"):
        logs("loud", "text")
