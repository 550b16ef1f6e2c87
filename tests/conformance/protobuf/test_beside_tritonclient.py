"""Our messages beside tritonclient's, in one process: both load, and they mean the same.

tritonclient registers the same names in protobuf's default pool and holds protobuf at 6; the other
tests run with whatever protobuf this environment has, usually 7.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

pytestmark = [pytest.mark.conformance, pytest.mark.slow]


@pytest.fixture(scope="module", params=["batcher.protocol", "tritonclient.grpc"])
def found(request, tritonclient_python):
    """What the script found, with either of the two imported first."""
    done = subprocess.run(
        [tritonclient_python, HERE / "beside_tritonclient.py", request.param],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_protobuf_6_is_enough(found):
    assert found["protobuf"].startswith("6.")


def test_every_field_of_ours_is_as_theirs(found):
    assert found["differences"] == []


def test_the_services_have_the_same_methods(found):
    assert found["absent"] == []


def test_a_request_and_its_answer_cross_over(found):
    assert found["exchanged"] == {
        "classifications": {"X": 2},
        "priority": 3,
        "timeout_ns": 1_000_000,
        "parameters": {"beam": 4},
        "id": "7",
        "X": [[1.5, 2.5]],
        "W": ["é"],
    }
