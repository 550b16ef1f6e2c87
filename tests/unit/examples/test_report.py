"""What the demo shows of what it found."""

import numpy as np
import pytest
import report
from client import Measurement
from rich.console import Console


@pytest.fixture
def shown():
    def render(part):
        console = Console(width=100, markup=False, highlight=False)
        with console.capture() as captured:
            console.print(part)
        return [line.rstrip() for line in captured.get().splitlines()]

    return render


def test_nearest_lines_come_first_and_never_the_query_itself(shown):
    lines = ["[b]east[/b]", "north", "north-east", "west", "south"]
    at = np.array([[1, 0], [0, 1], [0.7, 0.7], [-1, 0], [0, -1]], dtype=np.float32)
    found = shown(report.nearest(["north"], at[1:2], lines, at))
    assert found == ["north", "  0.70  north-east", "  0.00  [b]east[/b]", "  0.00  west"]


def test_a_file_of_one_line_has_no_neighbors(shown):
    at = np.ones((1, 1), dtype=np.float32)
    assert shown(report.nearest(["only"], at, ["only"], at)) == ["only", "  (no other line)"]


def test_batches_are_grouped_by_powers_of_two(shown):
    found = shown(report.batch_sizes({1: 2, 2: 1, 3: 1, 4: 3, 5: 1, 32: 8}))
    counts = [line.split(maxsplit=3)[:3] for line in found[:-1]]
    assert counts == [
        ["1", "sentence", "2"],
        ["2", "sentences", "1"],
        ["3-4", "sentences", "4"],
        ["5-8", "sentences", "1"],
        ["17-32", "sentences", "8"],
    ]
    assert [line.count("█") for line in found[:-1]] == [9, 4, 18, 4, 36]
    assert found[-1] == "17.5 sentences in a batch on average"


def test_a_measurement_is_counted_over_its_time():
    measured = Measurement(8, 2.0, np.arange(1.0, 102.0))
    assert measured.throughput == 50.5
    assert [measured.percentile(share) for share in (50, 95, 99)] == [51, 96, 100]


def test_rounds_add_up():
    goes = [Measurement(8, 1.0, np.array([1.0])), Measurement(8, 3.0, np.array([5.0, 6.0, 7.0]))]
    both = Measurement.together(goes)
    assert (both.in_flight, both.seconds, both.throughput) == (8, 4.0, 1.0)
    assert both.latencies_ms.tolist() == [1, 5, 6, 7]


def test_the_comparison_has_a_line_for_each_measurement(shown):
    measured = Measurement(64, 2.0, np.array([10.0, 20.0, 30.0]))
    found = shown(report.comparison([report.Row("batching", measured, {1: 1, 2: 1})]))
    assert " ".join(found[0].split()) == "sentences/s p50 ms p95 ms p99 ms mean batch"
    assert " ".join(found[1].split()) == "batching, 64 in flight 2 20.0 29.0 29.8 1.5"
