"""Slow spells of a core: found in a probe's readings, and kept from the requests that met one."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import spells

MS = 1_000_000
USUAL = 16_000


def readings(*slow_ms, until_ms=1000, took=10 * USUAL):
    """One every 4 ms, slow at some of them."""
    return [(ms * MS, took if ms in slow_ms else USUAL) for ms in range(0, until_ms, 4)]


def test_a_core_that_is_never_slow_has_no_spell():
    assert spells.spells_in([]) == []
    assert spells.spells_in(readings()) == []
    assert spells.spells_in(readings(400, took=3 * USUAL)) == []


def test_slow_readings_close_to_each_other_are_one_spell():
    slow = 10 * USUAL
    assert spells.spells_in(readings(400, 404, 448, 600)) == [
        (400 * MS, 448 * MS + slow),
        (600 * MS, 600 * MS + slow),
    ]


def test_a_core_may_be_slow_most_of_the_time():
    slow = range(0, 600, 4)
    [(begin, end)] = spells.spells_in(readings(*slow))
    assert (begin, end) == (0, 596 * MS + 10 * USUAL)


def test_spells_of_several_cores_are_united():
    found = [(500, 600), (0, 100), (50, 80)]
    assert spells.united(found) == [(0, 600)]
    far = spells.TOGETHER_NS + 601
    assert spells.united([(far, far + 1), *found]) == [(0, 600), (far, far + 1)]


def test_a_request_is_calm_a_target_before_a_spell_and_two_after_it():
    slow = spells.Spells({})
    slow.found = [(1000 * MS, 1040 * MS)]
    due_ns = [at * MS for at in (0, 449, 450, 500, 540, 640, 641)]
    calm = slow.calm(500 * MS, due_ns, 50 * MS)
    assert calm.tolist() == [True, True, False, False, False, False, True]


def test_a_stall_lasts_as_long_as_readings_are_slow_one_after_the_other():
    slow = spells.Spells({})
    slow._stalls = {
        "server": spells.spells_in(readings(400, 404, 448, 600), spells.NEXT_NS),
        "load": spells.spells_in(readings(404, 408), spells.NEXT_NS),
    }
    still = int(4 * MS * spells.STANDS_STILL)
    # For part of each interval in which there was a slow reading.
    assert slow.stalls(100 * MS, "server") == [
        (at * MS, at * MS + still) for at in (298, 302, 346, 498)
    ]
    assert slow.stalls(404 * MS, "server", "load")[:2] == [
        (0, still - 2 * MS),
        (2 * MS, 2 * MS + still),
    ]
    assert slow.stalls(500 * MS, "server")[0] == (98 * MS, 98 * MS + still)


def test_without_a_spell_every_request_is_calm():
    assert spells.Spells({}).calm(0, [1, 2], 50 * MS).all()


def test_a_core_is_probed_until_the_end():
    core = min(os.sched_getaffinity(0))
    with spells.Spells({"server": core}) as slow:
        probes = [probe.pid for probe in slow._probes.values()]
    assert 0 <= slow.shares["server"] <= 1
    assert all(begin < end for begin, end in slow.found)
    for pid in probes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_a_probe_that_does_not_start_is_an_error():
    with pytest.raises(RuntimeError, match="did not start"), spells.Spells({"server": 4095}):
        raise AssertionError


def test_no_probe_outlives_its_parent():
    command = [
        sys.executable,
        "-c",
        f"""
import subprocess, sys
probe = subprocess.Popen([sys.executable, {spells.__file__!r}, "{min(os.sched_getaffinity(0))}"],
                         stdout=subprocess.PIPE)
probe.stdout.readline()
""",
    ]
    # The probe holds the pipe of errors until it ends, so that this waits for both.
    ended = subprocess.run(command, stderr=subprocess.PIPE, timeout=30, check=True)
    assert ended.stderr == b""


def test_what_a_probe_prints_are_readings():
    core = str(min(os.sched_getaffinity(0)))
    probe = subprocess.Popen([sys.executable, spells.__file__, core], stdout=subprocess.PIPE)
    assert probe.stdout.readline()
    probe.terminate()
    took = np.array(json.loads(probe.communicate(timeout=30)[0]))
    assert probe.returncode == 0
    assert took.size == 0 or (took[:, 1] > 0).all()
