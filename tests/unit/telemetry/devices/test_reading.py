"""What one GPU, or one MIG instance, tells: every field, and what is not believed."""

from dataclasses import replace

import pytest
from fake_nvml import FakeGpu, FakeMig, Machine

from batcher.telemetry.devices.reading import GpuLost, NotInitialized, read
from batcher.telemetry.devices.session import Session
from batcher.telemetry.devices.statistics import DeviceStatistics

GB = 10**9


@pytest.fixture
def told():
    """Reads a machine's first GPU, or what has this UUID, twice: GPM needs two samples."""
    sessions = []

    def tell(machine, uuid=None, module=None):
        session = Session(module or machine.load())
        sessions.append(session)
        session.use([uuid or session.gpus[0].uuid])
        (target,) = session.targets.values()
        for _ in range(2):
            reading = read(session.nvml, target)
            statistics = session.gpm.add_to(reading.statistics, target)
        return replace(reading, statistics=statistics)

    yield tell
    for session in sessions:
        session.close()


def test_every_field(told):
    gpu = FakeGpu(
        utilization=87,
        memory_total=80 * GB,
        memory_used=40 * GB,
        power_mw=412_351,
        energy_mj=98_765_432_100,
        temperature=54,
        sm_clock=1980,
        memory_clock=2619,
        reasons=0x4 | 0x20 | 0x1,
        corrected=3,
        uncorrected=1,
        recovery_action=4,
        gpm_sm=71.5,
        gpm_occupancy=33.0,
        gpm_tensor=42.25,
        gpm_bandwidth=18.0,
    )
    reading = told(Machine([gpu]))
    assert reading.recovery_action == 4
    assert reading.known
    assert reading.statistics == DeviceStatistics(
        "",
        utilization=0.87,
        sm_utilization=0.715,
        sm_occupancy=0.33,
        tensor_activity=0.4225,
        memory_bandwidth=0.18,
        memory_used=40 * GB,
        memory_total=80 * GB,
        power_w=412.351,
        energy_j=98_765_432.1,
        temperature_c=54,
        sm_clock_hz=1_980_000_000,
        memory_clock_hz=2_619_000_000,
        throttle_reasons={
            "application_clocks": False,
            "power_cap": True,
            "hw_slowdown": False,
            "sync_boost": False,
            "sw_thermal_slowdown": True,
            "hw_thermal_slowdown": False,
            "hw_power_brake_slowdown": False,
            "display_clocks": False,
        },
        ecc_corrected=3,
        ecc_uncorrected=1,
    )


def test_an_idle_gpu_has_real_zeros(told):
    gpu = FakeGpu(utilization=0, memory_used=0, reasons=1, corrected=0, gpm_sm=0.0)
    statistics = told(Machine([gpu])).statistics
    assert statistics.utilization == 0.0
    assert statistics.sm_utilization == 0.0
    assert statistics.memory_used == 0
    assert statistics.ecc_corrected == 0
    assert not any(statistics.throttle_reasons.values())


NOT_AVAILABLE = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("field", "lies", "missing"),
    [
        ("utilization", (101, 255, NOT_AVAILABLE), "utilization"),
        ("power_mw", (0, NOT_AVAILABLE), "power_w"),
        ("energy_mj", (0, (1 << 64) - 1), "energy_j"),
        ("temperature", (0, 255), "temperature_c"),
        ("sm_clock", (0, NOT_AVAILABLE), "sm_clock_hz"),
        ("memory_clock", (0, NOT_AVAILABLE), "memory_clock_hz"),
        ("memory_used", (1 << 60, (1 << 64) - 1), "memory_used"),
        ("memory_total", (0, (1 << 64) - 1), "memory_total"),
        ("corrected", ((1 << 64) - 1,), "ecc_corrected"),
        ("uncorrected", ((1 << 64) - 1,), "ecc_uncorrected"),
        ("gpm_sm", (float("nan"), float("inf"), -1.0, 100.5), "sm_utilization"),
        ("gpm_tensor", (1e300,), "tensor_activity"),
    ],
)
def test_values_that_lie_are_absent(told, field, lies, missing):
    for lie in lies:
        statistics = told(Machine([FakeGpu(**{field: lie})])).statistics
        assert getattr(statistics, missing) is None, lie


FUNCTIONS = {
    "nvmlDeviceGetUtilizationRates": "utilization",
    "nvmlDeviceGetPowerUsage": "power_w",
    "nvmlDeviceGetTotalEnergyConsumption": "energy_j",
    "nvmlDeviceGetClockInfo": "sm_clock_hz",
    "nvmlDeviceGetTotalEccErrors": "ecc_corrected",
    "nvmlGpmSampleGet": "sm_utilization",
    "nvmlGpmMetricsGet": "tensor_activity",
    "nvmlGpmQueryDeviceSupport": "memory_bandwidth",
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "error", ["NOT_SUPPORTED", "NO_PERMISSION", "UNKNOWN", "FUNCTION_NOT_FOUND", "NO_DATA"]
)
def test_one_value_that_is_missing_leaves_the_others(told, function, error):
    machine = Machine([FakeGpu(errors={function: error})])
    if function == "nvmlGpmMetricsGet":  # of no GPU
        machine.errors = {function: error}
    reading = told(machine)
    assert getattr(reading.statistics, FUNCTIONS[function]) is None
    assert reading.statistics.memory_used is not None
    assert reading.known


def test_what_is_never_told_is_not_asked_again(told):
    machine = Machine([FakeGpu(errors={"nvmlDeviceGetPowerUsage": "NOT_SUPPORTED"}, gpm=False)])
    told(machine)
    assert machine.calls.count("nvmlDeviceGetPowerUsage") == 1
    assert machine.calls.count("nvmlGpmQueryDeviceSupport") == 1


def test_older_drivers(told):
    """Without functions of newer ones: the library does not have these names."""
    newer = ("MemoryInfo_v2", "TemperatureV", "ClocksEventReasons", "FieldValues", "Gpm")
    machine = Machine([FakeGpu(memory_used=5 * GB, memory_reserved=GB, temperature=61)])
    module = machine.load()
    machine.library.without(*newer)
    reading = told(machine, module=module)
    assert reading.statistics.memory_used == 6 * GB, "with what the driver keeps for itself"
    assert reading.statistics.temperature_c == 61
    assert reading.statistics.throttle_reasons["power_cap"] is True
    assert reading.statistics.sm_utilization is None
    assert reading.recovery_action is None


def test_an_older_nvidia_ml_py(told):
    """Without what newer versions of it have."""
    machine = Machine([FakeGpu(temperature=61)])
    module = machine.load()
    for name in ("nvmlDeviceGetTemperatureV", "nvmlMemory_v2", "nvmlGpmSampleAlloc"):
        vars(module).pop(name, None)
    for which in ("Supported", "Current"):
        vars(module).pop(f"nvmlDeviceGet{which}ClocksEventReasons", None)
    statistics = told(machine, module=module).statistics
    assert statistics.temperature_c == 61
    assert statistics.memory_used is not None
    assert statistics.throttle_reasons["power_cap"] is True
    assert statistics.sm_utilization is None


def test_a_mig_instance_has_its_own_memory_and_counters(told):
    mig = FakeMig("MIG-1", 2, 0, memory_total=10 * GB, memory_used=GB, gpm_sm=20.0)
    machine = Machine([FakeGpu(split=True, uncorrected=1, migs=[FakeMig("MIG-0"), mig])])
    reading = told(machine, "MIG-1")
    statistics = reading.statistics
    assert (statistics.memory_total, statistics.memory_used) == (10 * GB, GB)
    assert statistics.sm_utilization == 0.2
    absent = ("utilization", "power_w", "energy_j", "temperature_c", "sm_clock_hz")
    assert {getattr(statistics, name) for name in absent} == {None}
    assert statistics.ecc_uncorrected is None
    assert statistics.throttle_reasons == {}
    assert reading.recovery_action == 0, "of the GPU that it is part of"


def test_the_gpu_that_is_split(told):
    statistics = told(Machine([FakeGpu(split=True, migs=[FakeMig("MIG-0")])])).statistics
    assert statistics.utilization is None
    assert statistics.power_w is not None


@pytest.mark.parametrize(("error", "reset"), [("GPU_IS_LOST", False), ("RESET_REQUIRED", True)])
@pytest.mark.parametrize("function", [None, "nvmlDeviceGetPowerUsage", "nvmlDeviceGetFieldValues"])
def test_a_gpu_that_is_lost(told, error, reset, function):
    gpu = FakeGpu(errors={function: error} if function else {}, error="" if function else error)
    machine = Machine([FakeGpu()])
    module = machine.load()
    session = Session(module)
    session.use([session.gpus[0].uuid])
    machine.gpus = [gpu]
    with pytest.raises(GpuLost) as lost:
        read(module, session.targets[gpu.uuid])
    assert lost.value.reset is reset
    session.close()


def test_one_that_is_lost_when_its_counters_are_read():
    machine = Machine()
    session = Session(machine.load())
    session.use([session.gpus[0].uuid])
    (target,) = session.targets.values()
    statistics = read(session.nvml, target).statistics
    machine.gpus[0].errors = {"nvmlGpmSampleGet": "GPU_IS_LOST"}
    with pytest.raises(GpuLost):
        session.gpm.add_to(statistics, target)
    session.close()


def test_nvml_that_something_else_has_shut_down():
    machine = Machine()
    session = Session(machine.load())
    session.use([session.gpus[0].uuid])
    session.nvml.nvmlShutdown()
    with pytest.raises(NotInitialized):
        read(session.nvml, next(iter(session.targets.values())))


def test_a_gpu_that_tells_nothing(told):
    errors = dict.fromkeys(FUNCTIONS, "NO_PERMISSION")
    more = ("MemoryInfo", "MemoryInfo_v2", "TemperatureV", "Temperature")
    errors |= {f"nvmlDeviceGet{name}": "NO_PERMISSION" for name in more}
    for which in ("Supported", "Current"):
        for word in ("Event", "Throttle"):
            errors[f"nvmlDeviceGet{which}Clocks{word}Reasons"] = "NO_PERMISSION"
    reading = told(Machine([FakeGpu(errors=errors)]))
    assert not reading.known
    assert str(reading.problem) == "Insufficient Permissions"
