import gc

import numpy as np
import pytest

from batcher_onnxruntime.pinned import cuda_runtime, pinned


class FakeRuntime:
    """Notes which addresses are page-locked."""

    def __init__(self, code=0):
        self.code = code
        self.locked = {}

    def cudaHostRegister(self, address, nbytes, flags):  # noqa: N802 - CUDA's name
        assert flags == 1
        if not self.code:
            self.locked[address] = nbytes
        return self.code

    def cudaHostUnregister(self, address):  # noqa: N802 - CUDA's name
        del self.locked[address]
        return 0


@pytest.mark.parametrize("runtime", [None, FakeRuntime(), FakeRuntime(code=2)])
def test_it_is_memory_of_its_own(runtime):
    array = pinned((3, 5), np.dtype(np.int16), runtime)
    array[:] = 7
    assert (array.shape, array.dtype, int(array.sum())) == ((3, 5), np.int16, 105)
    assert array.flags.c_contiguous
    assert array.flags.writeable


def test_pages_are_locked_as_long_as_something_refers_to_them():
    runtime = FakeRuntime()
    array = pinned((4, 6), np.dtype(np.float32), runtime)
    assert runtime.locked == {array.ctypes.data: 96}
    view = array[:2]
    del array
    gc.collect()
    assert len(runtime.locked) == 1
    del view
    gc.collect()
    assert runtime.locked == {}


def test_without_room_it_is_ordinary_memory(caplog):
    runtime = FakeRuntime(code=2)
    assert pinned((4,), np.dtype(np.float32), runtime).shape == (4,)
    assert runtime.locked == {}
    assert "16 bytes of inputs are not page-locked: CUDA error 2" in caplog.text
    assert pinned((0, 4), np.dtype(np.float32), runtime).shape == (0, 4)


def test_the_runtime_is_found_or_not():
    runtime = cuda_runtime()
    assert runtime is None or callable(runtime.cudaHostRegister)
