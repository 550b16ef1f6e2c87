"""A neighbor, and the model of batcher that is executed by it."""

from contextlib import contextmanager

import environments
import pytest

BATCH_S = {"base_s": 0.002, "per_row_s": 0.0002}
"""What a batch of a neighbor's model `double` takes."""

TENSORS = {
    "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 16]}],
    "outputs": [
        {"name": "Y", "datatype": "FP32", "shape": [-1, 16]},
        {"name": "BATCH", "datatype": "INT32", "shape": [-1, 1]},
    ],
}
"""Those of `double`, for servers that do not say what a model takes."""


@contextmanager
def running(make, folder, *, started=True, **settings):
    """A neighbor that is ready, or that the test will start."""
    try:
        server = make(folder, **settings)
    except environments.CannotMakeError as error:
        pytest.skip(str(error))
    try:
        if started:
            server.start()
            server.await_ready()
        yield server
    finally:
        server.kill()


def served(name, executor, options, *, target="200ms", **rest):
    """A model of the configuration that is executed by a neighbor."""
    return {
        "name": name,
        "executor": executor,
        "options": options,
        "batching": {"target_p99": target},
        **rest,
    }
