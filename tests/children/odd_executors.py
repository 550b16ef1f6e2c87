"""Executors that tests run in children, which import this module by its name."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time

import numpy as np

from batcher.errors import BackendUnavailable, ModelLoadError, OutOfMemory
from batcher.executor import (
    DTYPES,
    BatchResult,
    Capabilities,
    ExecutionError,
    ModelMetadata,
    TensorSpec,
)


def echo_metadata(platform="echo"):
    """An optional input for each datatype, and an output that repeats it."""
    inputs = [TensorSpec(f"I_{name}", name, (-1, -1), optional=True) for name in DTYPES]
    outputs = [TensorSpec(f"O_{name}", name, (-1, -1)) for name in DTYPES]
    shared = TensorSpec("SHARED", "FP32", (-1,), optional=True, batched=False)
    return ModelMetadata(
        platform, (*inputs, shared), tuple(outputs), parameters=("p",), metadata=("m-bin",)
    )


def echoed(batch):
    return {f"O_{name[2:]}": array for name, array in batch.inputs.items() if name.startswith("I_")}


class Echo:
    """Repeats its inputs, of any datatype; outputs that have no input are empty."""

    capabilities = Capabilities(dynamic_axes=True)

    def load(self, context):
        self.context = context
        return echo_metadata()

    def execute(self, batch):
        return BatchResult(echoed(batch))

    def close(self):
        pass


class Reports:
    """Answers with what it was given beside the arrays, as texts."""

    capabilities = Capabilities()

    def load(self, context):
        self.context = context
        x, y = TensorSpec("X", "FP32", (-1, 1)), TensorSpec("Y", "BYTES", (-1, 1))
        return ModelMetadata("reports", (x,), (y,), parameters=("p",), metadata=("m-bin", "m"))

    def execute(self, batch):
        said = repr(
            (
                sorted(batch.parameters.items()),
                sorted(batch.metadata.items()),
                batch.outputs and sorted(batch.outputs),
                batch.deadline_ns,
                list(batch.sequences),
                batch.rows,
                self.context,
            )
        ).encode()
        return BatchResult({"Y": np.array([[said]] * batch.rows, object)})

    def close(self):
        pass


def _in_c():
    """Hang in C with the interpreter's lock held."""
    ctypes.PyDLL(None).sleep(3600)


def _segfault():
    ctypes.string_at(1)


def _close_everything():
    os.closerange(0, 64)
    time.sleep(3600)


def _leave_another():
    subprocess.Popen(["sleep", "3600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os._exit(7)


DEEDS = {
    "leave another": _leave_another,
    "terminate": lambda: [os.kill(os.getpid(), number) for number in (2, 15, 1)],
    "surrogate": lambda: (_ for _ in ()).throw(ModelLoadError("no file \udc80")),
    "exit": lambda: os._exit(7),
    "segfault": _segfault,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hang": lambda: time.sleep(3600),
    "hang in C": _in_c,
    "close": _close_everything,
    "sys.exit": lambda: sys.exit("bye"),
    "raise": lambda: (_ for _ in ()).throw(ValueError("no")),
    "input": lambda: (_ for _ in ()).throw(ExecutionError("bad value", cause="input")),
    "busy": lambda: (_ for _ in ()).throw(
        ExecutionError("full", cause="overloaded", retry_after_ns=5)
    ),
}


class Does:
    """Does what the first element of its input says, and then answers with its process id."""

    capabilities = Capabilities()

    def load(self, context):
        deed = context.options.get("load")
        if deed in DEEDS:
            DEEDS[deed]()
        errors = {"memory": OutOfMemory, "backend": BackendUnavailable, "model": ModelLoadError}
        if deed in errors:
            raise errors[deed](f"because of {deed}")
        if deed == "nothing":
            return None
        x = TensorSpec("X", "BYTES", (-1, 1))
        return ModelMetadata("does", (x,), (TensorSpec("PID", "INT64", (-1, 1)),))

    def execute(self, batch):
        deed = batch.inputs["X"][0, 0].decode()
        if deed.startswith("print "):
            sys.stdout.write(f"{deed}\n")
        elif deed == "wrong row":
            pids = np.zeros((batch.rows, 1), np.int64)
            return BatchResult({"PID": pids}, row_errors={0: "no file \udc80"})
        elif deed:
            DEEDS[deed]()
        return BatchResult({"PID": np.full((batch.rows, 1), os.getpid(), np.int64)})

    def healthy(self):
        return None

    def close(self):
        pass


class Awaits:
    """Waits until as many batches run as `X` says, then answers with how many do."""

    capabilities = Capabilities(max_in_flight=8)

    async def load(self, context):
        self.running = set()
        x, y = TensorSpec("X", "FP32", (-1, 1)), TensorSpec("Y", "FP32", (-1, 1))
        return ModelMetadata("awaits", (x,), (y,))

    async def execute(self, batch):
        seen, enough = [0], asyncio.Event()
        me = (batch.inputs["X"][0, 0], seen, enough)
        self.running.add(id(me))
        self.waiting = [*getattr(self, "waiting", ()), me]
        for wanted, most, event in self.waiting:
            most[0] = max(most[0], len(self.running))
            if most[0] >= wanted:
                event.set()
        try:
            await enough.wait()
        finally:
            self.running.discard(id(me))
        return BatchResult({"Y": np.full((batch.rows, 1), seen[0], np.float32)})

    async def healthy(self):
        return "so so"

    async def watch(self, report):
        report("first")
        report("")
        await asyncio.sleep(0)
        raise ValueError("watched enough")

    async def close(self):
        pass


class Overlaps:
    """Pipelined: `SUBMITTED` is how many batches were submitted when this one was collected."""

    capabilities = Capabilities()

    def load(self, context):
        self.fail = context.options.get("fail")
        self.submitted = 0
        self.collected = 0
        columns = context.options.get("columns", 1)
        x = TensorSpec("X", "FP32", (-1, columns))
        outputs = TensorSpec("Y", "FP32", (-1, columns)), TensorSpec("SUBMITTED", "INT32", (-1, 1))
        return ModelMetadata("overlaps", (x,), outputs)

    def execute(self, batch):
        return self.collect(self.submit(batch))

    def submit(self, batch):
        if self.fail == "submit":
            raise ExecutionError("no submit", cause="device")
        self.submitted += 1
        assert self.submitted - self.collected <= 2
        return self.submitted, batch

    def collect(self, handle):
        number, batch = handle
        if self.fail == "collect":
            self.collected += 1
            raise ExecutionError("no collect", cause="input")
        time.sleep(0.02)  # what the device takes
        assert number == self.collected + 1
        self.collected += 1
        y = batch.inputs["X"] * 2
        return BatchResult(
            {"Y": y, "SUBMITTED": np.full((batch.rows, 1), self.submitted, np.int32)}
        )

    def close(self):
        assert self.submitted == self.collected


class Allocating:
    """`Y` is 1 where the input lies in memory that this executor has allocated, else 0."""

    capabilities = Capabilities()

    def load(self, context):
        self.arrays = []
        x = TensorSpec("X", "FP32", (-1, 2))
        return ModelMetadata("allocating", (x,), (TensorSpec("Y", "FP32", (-1, 1)), x_again()))

    def allocate(self, name, shape, dtype):
        self.arrays.append(np.empty(shape, dtype))
        return self.arrays[-1]

    def execute(self, batch):
        x = batch.inputs["X"]
        own = any(np.shares_memory(x, array) for array in self.arrays) and len(self.arrays) == 1
        return BatchResult({"Y": np.full((batch.rows, 1), own, np.float32), "X": x})

    def close(self):
        pass


def x_again():
    return TensorSpec("X", "FP32", (-1, 2))


class Breaks:
    """Doubles its inputs; after a negative value every batch fails, as after an error of a device."""

    capabilities = Capabilities()
    broken = False

    def load(self, context):
        del context
        return ModelMetadata(
            "breaks", (TensorSpec("X", "FP32", (-1, 2)),), (TensorSpec("Y", "FP32", (-1, 2)),)
        )

    def execute(self, batch):
        self.broken = self.broken or bool((batch.inputs["X"] < 0).any())
        if self.broken:
            raise ExecutionError("device-side assert triggered", cause="device")
        return BatchResult({"Y": 2 * batch.inputs["X"]})

    def close(self):
        pass


class BreaksAndSaysSo(Breaks):
    """The same with `healthy`."""

    def healthy(self):
        return "its context is lost" if self.broken else None
