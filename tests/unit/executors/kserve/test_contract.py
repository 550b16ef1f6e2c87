"""The executor against a neighbor in this process passes the suite that every executor passes."""

import grpc
import numpy as np
import pytest

from batcher.executors.kserve import KserveExecutor
from batcher.testing import ExecutorContract


class TestContract(ExecutorContract):
    def make_executor(self):
        return KserveExecutor()

    def make_inputs(self, rows, rng):
        return {"X": rng.random((rows, 4), np.float32)}

    def bad_inputs(self):
        return {"X": np.full((3, 4), np.nan, np.float32)}

    @pytest.fixture
    def options(self, neighbor, kit):
        def infer(request, call):
            answer = kit.double(request)
            if np.isnan(np.frombuffer(answer.raw_output_contents[0], np.float32)).any():
                raise kit.Refusal(grpc.StatusCode.INVALID_ARGUMENT, "row 0\nhas no number")
            return answer

        neighbor.infer = infer
        neighbor.start()
        return {"url": neighbor.address}

    @pytest.fixture
    def bad_options(self, options):
        def wrong(name, value):
            return {**options, name: value}

        return {
            "no_such_option": wrong("no_such_option", 1),
            "url": {"url": "localhost"},
            "model": wrong("model", ""),
            "version": wrong("version", 1),
            "config": wrong("config", ""),
            "tls.key": wrong("tls", {"cert": "c.pem"}),
            "metadata": wrong("metadata", {"Content-Type": "x"}),
            "forward_metadata": wrong("forward_metadata", [":path"]),
            "forward_parameters": wrong("forward_parameters", [""]),
            "shared_memory": wrong("shared_memory", "on"),
            "max_message": wrong("max_message", "3GiB"),
            "connect_timeout": wrong("connect_timeout", "0"),
            "health_interval": wrong("health_interval", 1),
            "health_timeout": wrong("health_timeout", "-1s"),
        }


class TestTexts(ExecutorContract):
    """BYTES in and out, without a batch axis at the neighbor."""

    max_batch_size = 0

    def make_executor(self):
        return KserveExecutor()

    def make_inputs(self, rows, rng):
        array = np.empty((2, 3), np.object_)
        array[:] = [[rng.bytes(4) for _ in range(3)] for _ in range(2)]
        return {"X": array}

    @pytest.fixture
    def options(self, neighbor, kit):
        neighbor.inputs = [("X", "BYTES", [-1, 3])]
        neighbor.outputs = [("Y", "BYTES", [-1, 3])]
        neighbor.max_batch_size = 0
        neighbor.infer = lambda request, call: kit.echo(request)
        neighbor.start()
        return {"url": neighbor.address}
