"""Whatever goes wrong, in any order: when all is well again, everything is read, and nothing leaks."""

import random
import threading

import pytest
from fake_nvml import GI_ANY, FakeGpu, FakeLibrary, FakeMig, Machine

from batcher.clock import SECOND
from batcher.telemetry.devices.statistics import DeviceState

FUNCTIONS = [
    name.removeprefix("do_")
    for name in dir(FakeLibrary)
    if name.startswith("do_") and "Free" not in name and "Shutdown" not in name
]
"""All but those that give something back: what these refuse is lost."""

ERRORS = ["GPU_IS_LOST", "RESET_REQUIRED", "UNKNOWN", "NO_PERMISSION", "NOT_SUPPORTED", "TIMEOUT"]
ERRORS += ["UNINITIALIZED", ""]
PAUSES_NS = [SECOND // 10, SECOND, 11 * SECOND, 31 * SECOND, 61 * SECOND]


def disturb(play, draw):
    """One change of the machine, or of what is to be read."""
    machine, gpu = play.machine, draw.randrange(3)
    match draw.randrange(9):
        case 0:
            machine.set(gpu, errors={draw.choice(FUNCTIONS): draw.choice(ERRORS) for _ in range(3)})
        case 1:
            machine.set(gpu, error=draw.choice(ERRORS))
        case 2:
            machine.set(gpu, hang=[draw.choice([*FUNCTIONS, "*"])])
        case 3:
            machine.release()
        case 4:
            code = draw.choice([13, 31, 48, 79, 119, 500, 2000])
            machine.xid(gpu, code, draw.choice([GI_ANY, 1, 2, 3]), draw.choice([GI_ANY, 0]))
        case 5:
            machine.errors = {draw.choice(FUNCTIONS): draw.choice(ERRORS)}
        case 6:
            named = draw.sample([("a", "MIG-a"), ("b", "MIG-b"), ("c", 1), ("d", "GPU-zz")], 2)
            play.read(*draw.sample([0, 2, 7], 2), **dict(named))
        case 7:
            action = draw.choice([None, 0, 1, 2, 4])
            machine.set(gpu, uncorrected=draw.randrange(5), recovery_action=action)
        case 8:
            machine.hang = [draw.choice(FUNCTIONS)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_when_all_is_well_again_everything_is_read(reading, caplog, seed):
    draw = random.Random(seed)
    migs = [FakeMig("MIG-a", 1), FakeMig("MIG-b", 2)]
    play = reading(Machine([FakeGpu(0), FakeGpu(1, split=True, migs=migs), FakeGpu(2)]))
    play.read(0, 2, a="MIG-a", b="MIG-b")
    moment = threading.Event()
    for _ in range(60):
        disturb(play, draw)
        play.now_ns += draw.choice(PAUSES_NS)
        play.reader.check()
        moment.wait(draw.choice([0, 0.005, 0.02]))
        assert sum(thread.is_alive() for thread in play.threads) <= 6
    play.machine.errors = {}
    for gpu in range(3):
        well = {"error": "", "errors": {}, "uncorrected": 0, "recovery_action": 0}
        play.machine.set(gpu, **well)
    play.machine.release()
    play.read(0, 2, a="MIG-a", b="MIG-b")

    def well_again():
        play.now_ns += 2 * SECOND
        play.reader.check()
        devices = ("gpu0", "gpu2", "a", "b")
        return (
            all(play.state(name) is DeviceState.OK for name in devices)
            and not any(play.record(name).faults.failures for name in devices)
            and not (play.reader.hanging or play.reader.stuck or play.reader.problem)
        )

    play.until(well_again)
    assert "internal error" not in caplog.text
