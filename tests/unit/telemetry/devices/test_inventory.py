"""Which GPU a name means, for NVML and for CUDA."""

import pytest

from batcher.telemetry.devices.inventory import (
    Gpu,
    MigInstance,
    NotFound,
    configured_gpu,
    cuda_gpu,
)

A, B, C = (f"GPU-{letter * 8}-0000-4000-8000-000000000000" for letter in "abc")
M1, M2 = "MIG-11111111-0000-5000-8000-000000000000", "MIG-22222222-0000-5000-8000-000000000000"
ALIKE = [
    Gpu(0, A, "00000000:18:00.0", "H100"),
    Gpu(1, B, "00000000:3B:00.0", "H100"),
    Gpu(2, C, "00000001:3B:00.0", "H100"),
]
DIFFERENT = [Gpu(0, A, "00000000:18:00.0", "T4"), Gpu(1, B, "00000000:3B:00.0", "H100")]
SPLIT = [
    Gpu(0, A, "00000000:18:00.0", "H100"),
    Gpu(1, B, "00000000:3B:00.0", "H100", True, (MigInstance(M1, 1, 0), MigInstance(M2, 2, 0))),
]


@pytest.mark.parametrize(
    ("name", "uuid"),
    [
        (0, A),
        (2, C),
        (B, B),
        (B.upper(), B),
        (B.removeprefix("GPU-"), B),
        ("00000000:3B:00.0", B),
        ("0000:3b:00.0", B),
        ("3b:00", B),
        ("0001:3b:00.0", C),
    ],
)
def test_what_the_configuration_names(name, uuid):
    assert configured_gpu(name, ALIKE).uuid == uuid


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (3, "there is no GPU 3; NVML has 0 (GPU-aaaaaaaa"),
        ("GPU-a", "there is no GPU GPU-a"),
        ("0000:40:00.0", "there is no GPU 0000:40:00.0"),
        ("", "there is no GPU "),
    ],
)
def test_what_is_not_there(name, why):
    with pytest.raises(NotFound) as refused:
        configured_gpu(name, ALIKE)
    assert str(refused.value).startswith(why)


def test_many_gpus_are_not_all_listed():
    with pytest.raises(NotFound) as refused:
        configured_gpu(16, [Gpu(n, f"GPU-{n}") for n in range(16)])
    assert "3 (GPU-3) and 12 more" in str(refused.value)
    with pytest.raises(NotFound, match="NVML has none"):
        configured_gpu(0, [])


def test_one_that_cannot_be_opened():
    broken = [Gpu(0, problem="NVML: GPU is lost"), ALIKE[1]]
    with pytest.raises(NotFound, match="GPU 0 cannot be opened: NVML: GPU is lost"):
        configured_gpu(0, broken)
    assert cuda_gpu(0, broken, {}).uuid == B, "CUDA does not count it"


@pytest.mark.parametrize(
    ("visible", "number", "uuid"),
    [
        (None, 1, B),
        ("1", 0, B),
        ("2,0", 0, C),
        ("2,0", 1, A),
        (" 1 , 2 ", 1, C),
        (f"{C},{A}", 0, C),
        ("GPU-b", 0, B),
        (f"{A},1", 1, B),
        ("0,7,1", 0, A),
    ],
)
def test_what_cuda_numbers(visible, number, uuid):
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert cuda_gpu(number, ALIKE, environ).uuid == uuid


@pytest.mark.parametrize(
    ("visible", "number"),
    [
        (None, 3),
        ("", 0),
        ("-1", 0),
        ("0,-1,1", 1),  # what comes after it is not visible
        ("0,7,1", 1),
        ("0,0", 0),  # nothing is visible where one is there twice
        ("GPU-", 0),  # several begin so
        ("GPU-d", 0),
        ("none", 0),
        ("NoDevFiles", 0),
        ("1", 1),
        ("1", -1),
        ("²", 0),
    ],
)
def test_what_cuda_does_not_see(visible, number):
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    with pytest.raises(NotFound, match=f"CUDA has no GPU {number} where CUDA_VISIBLE_DEVICES is"):
        cuda_gpu(number, ALIKE, environ)


def test_cuda_numbers_different_gpus_by_speed():
    """Which only CUDA knows: a number tells nothing then, a UUID does."""
    with pytest.raises(NotFound, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        cuda_gpu(0, DIFFERENT, {})
    with pytest.raises(NotFound, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        cuda_gpu(0, DIFFERENT, {"CUDA_VISIBLE_DEVICES": "1"})
    assert cuda_gpu(0, DIFFERENT, {"CUDA_VISIBLE_DEVICES": B}).uuid == B
    by_bus = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert cuda_gpu(0, DIFFERENT, by_bus).uuid == A
    assert cuda_gpu(0, DIFFERENT, by_bus | {"CUDA_VISIBLE_DEVICES": "1"}).uuid == B


def test_instances_of_a_split_gpu():
    assert configured_gpu(M2, SPLIT).uuid == M2
    assert configured_gpu(M2, SPLIT).gpu is SPLIT[1]
    assert configured_gpu(f"MIG-{B}/2/0", SPLIT).uuid == M2, "as drivers before 470 name it"
    assert cuda_gpu(0, SPLIT, {"CUDA_VISIBLE_DEVICES": M2}).uuid == M2
    assert cuda_gpu(0, SPLIT, {"CUDA_VISIBLE_DEVICES": f"MIG-{B}/1/0"}).uuid == M1
    assert cuda_gpu(0, SPLIT, {"CUDA_VISIBLE_DEVICES": "1"}).uuid == M1, "CUDA takes the first"
    assert cuda_gpu(M2.removeprefix("MIG-"), SPLIT, {}).uuid == M2, "as PyTorch says it"
    assert cuda_gpu(B, SPLIT, {"CUDA_VISIBLE_DEVICES": M2}).uuid == M2, "the GPU's own UUID"
    assert cuda_gpu(B, SPLIT, {}).uuid == M1
    assert cuda_gpu(A, SPLIT, {}).uuid == A
    with pytest.raises(NotFound):
        configured_gpu(f"MIG-{B}/3/0", SPLIT)
    with pytest.raises(NotFound, match="it has no instance"):
        cuda_gpu(0, [Gpu(0, A, split=True)], {})


@pytest.mark.parametrize("said", [True, 1.5, b"GPU-a", ["GPU-a"], object()])
def test_an_executor_that_says_something_else(said):
    with pytest.raises(NotFound, match="allowed: a number, a UUID or a PCI bus id"):
        cuda_gpu(said, ALIKE, {})
