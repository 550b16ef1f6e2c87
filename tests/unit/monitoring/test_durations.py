"""Rules whose durations are divided, so that scenes with real servers are short."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "bench" / "load"))

from monitoring.durations import divided, milliseconds, scaled_expression, scaled_rules


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        ("0s", 0),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("1d", 86_400_000),
        ("2w", 1_209_600_000),
        ("1y", 31_536_000_000),
        ("1m500ms", 60_500),
    ],
)
def test_durations_are_read(duration, expected):
    assert milliseconds(duration) == expected


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "1.5h", "-5m", "5min", "5M"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="is no duration"):
        milliseconds(text)


@pytest.mark.parametrize(
    ("duration", "factor", "expected"),
    [("5m", 100, "3000ms"), ("1s", 3, "333ms"), ("10ms", 100, "1ms"), ("0s", 100, "0ms")],
)
def test_durations_are_divided(duration, factor, expected):
    assert divided(duration, factor) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("rate(x_total[5m])", "rate(x_total[3000ms])"),
        ("max_over_time(x[1h:30s])", "max_over_time(x[36000ms:300ms])"),
        ("max_over_time(x[1h:])", "max_over_time(x[36000ms:])"),
        ("x offset 1h30m", "x offset 54000ms"),
        ("x offset -1h", "x offset -36000ms"),
        ("x[5m] @ 1609746000", "x[3000ms] @ 1609746000"),
        # Names, texts and numbers only look like durations.
        ("job:x:rate5m > 0.05", "job:x:rate5m > 0.05"),
        ("job:x5m:rate5m[5m]", "job:x5m:rate5m[3000ms]"),
        ("x{window=\"5m\", other='[5m]'}", "x{window=\"5m\", other='[5m]'}"),
        ('x{a="\\"5m"}[5m]', 'x{a="\\"5m"}[3000ms]'),
        ("x{a=`5m`}", "x{a=`5m`}"),
        ("14.4 * x > 1e3 and 0x5d", "14.4 * x > 1e3 and 0x5d"),
        ("x # in 5m\n[5m]", "x # in 5m\n[3000ms]"),
    ],
)
def test_queries_are_scaled(expression, expected):
    assert scaled_expression(expression, 100) == expected


def test_rules_are_scaled_and_what_they_say_stays():
    rules = {
        "groups": [
            {
                "name": "g",
                "interval": "5s",
                "rules": [
                    {"record": "batcher:age:seconds", "expr": "vector(60)"},
                    {"record": "batcher:goodput:objective", "expr": "vector(0.99)"},
                    {
                        "alert": "A",
                        "expr": "x[1m] > 60",
                        "for": "2m",
                        "keep_firing_for": "1h",
                        "annotations": {"summary": "for 5m"},
                    },
                ],
            }
        ]
    }
    (group,) = scaled_rules(rules, 100)["groups"]
    age, objective, alert = group["rules"]
    assert group["interval"] == "50ms"
    assert age["expr"] == "vector(0.6)"
    assert objective["expr"] == "vector(0.99)"
    assert alert == {
        "alert": "A",
        "expr": "x[600ms] > 60",
        "for": "1200ms",
        "keep_firing_for": "36000ms",
        "annotations": {"summary": "for 5m"},
    }
    assert rules["groups"][0]["rules"][2]["for"] == "2m"
    (group,) = scaled_rules(rules, 100, ["batcher:age:seconds"])["groups"]
    assert group["rules"][0]["expr"] == "vector(60)"
