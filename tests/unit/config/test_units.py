import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.config import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("50ms", 50_000_000),
        ("2s", 2_000_000_000),
        ("1.5ms", 1_500_000),
        ("100us", 100_000),
        ("100µs", 100_000),
        ("5m", 300_000_000_000),
        ("1h", 3_600_000_000_000),
        ("7ns", 7),
        ("0.1s", 100_000_000),
        (" 50 ms ", 50_000_000),
        ("0ms", 0),
        ("0", 0),
        (0, 0),
    ],
)
def test_a_duration_becomes_exact_nanoseconds(text, expected_ns):
    assert parse_duration(text) == expected_ns


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64MiB", 64 * 1024**2),
        ("1GB", 10**9),
        ("1.5KiB", 1536),
        ("2kB", 2000),
        ("2KB", 2000),
        ("3MB", 3_000_000),
        ("1GiB", 1024**3),
        ("17B", 17),
        (0, 0),
    ],
)
def test_a_size_becomes_exact_bytes(text, expected):
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "value",
    [50, 1.5, "50", "", "ms", "-1ms", "1 week", "1e3ms", "50MS", True, None, [], "1m30s", "٣s"],
)
def test_a_duration_without_a_known_unit_is_refused(value):
    with pytest.raises(ValueError, match="such as 50ms"):
        parse_duration(value)


@pytest.mark.parametrize("value", [64, "64", "64mib", "64Mi", "-1B", False, None, {}])
def test_a_size_without_a_known_unit_is_refused(value):
    with pytest.raises(ValueError, match="such as 64MiB"):
        parse_size(value)


def test_what_cannot_be_held_exactly_is_refused():
    with pytest.raises(ValueError, match="nothing finer than a nanosecond"):
        parse_duration("0.5ns")
    with pytest.raises(ValueError, match="nothing finer than a byte"):
        parse_size("0.5B")


def test_absurdly_large_values_are_refused():
    with pytest.raises(ValueError, match="at most 8760h"):
        parse_duration("8761h")
    with pytest.raises(ValueError, match="at most"):
        parse_size("9999999GiB")


@given(st.integers(min_value=0, max_value=10**15))
def test_durations_survive_the_round_trip(duration_ns):
    assert parse_duration(format_duration(duration_ns)) == duration_ns


@given(st.integers(min_value=0, max_value=1 << 50))
def test_sizes_survive_the_round_trip(nbytes):
    assert parse_size(format_size(nbytes)) == nbytes


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [(50_000_000, "50ms"), (1_500_000, "1.5ms"), (60_000_000_000, "1m"), (0, "0ms"), (7, "7ns")],
)
def test_durations_are_shown_as_people_write_them(duration_ns, text):
    assert format_duration(duration_ns) == text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(64 * 1024**2, "64MiB"), (10**9, "1GB"), (0, "0B"), ((1 << 31) - 1, "2147483647B")],
)
def test_sizes_are_shown_as_people_write_them(nbytes, text):
    assert format_size(nbytes) == text
