import numpy as np
import pytest

from batcher.clock import SECOND
from batcher.errors import InputError
from batcher.simulation.traffic.traces import read_trace, timestamp_ns


@pytest.fixture
def trace(tmp_path):
    """Read a trace with this text."""

    def call(text):
        path = tmp_path / "trace.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_trace(path).recorded_s.tolist()

    return call


def test_seconds_one_a_line(trace):
    assert trace("# recorded\n1.5\n\n2\n  4.25 \n") == [0, 0.5, 2.75]


def test_out_of_order_lines_are_put_in_order(trace):
    assert trace("3\n1\n2\n") == [0, 1, 2]


def test_a_csv_with_a_heading(trace):
    text = "TIMESTAMP,ContextTokens\n2023-11-16 18:17:03.9799600,4808\n2023-11-16 18:17:04.1,110\n"
    assert trace(text) == pytest.approx([0, 0.12004])


def test_the_column_is_found_by_its_name(trace):
    assert trace("id,Arrival_Time\n7,0.5\n8,0.75\n") == [0, 0.25]


def test_a_csv_without_a_heading_that_starts_with_a_time(trace):
    assert trace("0.5,a\n1.5,b\n") == [0, 1]


def test_a_byte_order_mark_is_no_part_of_the_text(trace):
    assert trace(b"\xef\xbb\xbftimestamp\n1\n2\n") == [0, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12.25", 12 * SECOND + SECOND // 4),
        ("-1.5", -3 * SECOND // 2),
        ("1e-3", 10**6),
        ("1700158623.979960123", 1_700_158_623_979_960_123),
        ("1700158623979", 1_700_158_623_979_000_000),
        ("1700158623979960", 1_700_158_623_979_960_000),
        ("1700158623979960123", 1_700_158_623_979_960_123),
        ("2023-11-16T18:17:03Z", 1_700_158_623_000_000_000),
        ("2023-11-16 19:17:03.5+0100", 1_700_158_623_500_000_000),
    ],
)
def test_timestamps(text, expected):
    assert timestamp_ns(text) == expected


@pytest.mark.parametrize("text", ["", ".", "1:2", "nan", "2023-11-16", "2023-13-16 00:00:00"])
def test_other_texts_are_not_timestamps(text):
    with pytest.raises(ValueError):
        timestamp_ns(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no arrivals"),
        ("timestamp\n", "holds no arrivals"),
        ("a,b\n1,2\n", "line 1: no column is an arrival time; needed: one of timestamp"),
        ("1\nx\n", "line 2: got 'x'; allowed: seconds such as 12.25"),
        ("id,time\n1\n", "line 2: got 1 columns"),
        (b"\xff\xfe", "is not a text file"),
    ],
)
def test_an_error_names_its_line(trace, text, message):
    with pytest.raises(InputError) as error:
        trace(text)
    assert "trace.csv" in str(error.value)
    assert message in str(error.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_trace(tmp_path / "none.csv")


def test_a_long_trace_keeps_its_nanoseconds(trace):
    at = np.array(trace("1700158623.000000001\n1700158624.000000002\n"))
    assert at[1] * SECOND == pytest.approx(SECOND + 1, abs=0.2)
