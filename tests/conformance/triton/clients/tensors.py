"""Inputs for the server's models, with tritonclient's own types."""

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

INTEGERS = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
FLOATS = ("FP16", "FP32", "FP64")


def tensor(name, array, datatype=None):
    """An input that holds the array, in raw form."""
    made = triton.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def row(first=0.0, rows=1, columns=16):
    """The input `X` of `hello`: ascending values from `first`."""
    values = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    return tensor("X", values + np.float32(first))


def pair(left, right):
    """The inputs of `sums`."""
    return [tensor("A", np.float32([left])), tensor("B", np.float32([right]))]


def of_every_type():
    """Two rows of three columns of each datatype of `types`, extremes included."""
    arrays = {"BOOL": np.array([[True, False, True], [False, False, True]])}
    for name in INTEGERS:
        limits = np.iinfo(name.lower())
        arrays[name] = np.array([[limits.min, 0, 1], [2, 3, limits.max]], dtype=name.lower())
    for name in FLOATS:
        kind = np.dtype(f"float{name[2:]}")
        arrays[name] = np.array([[0.5, -2.25, np.inf], [np.finfo(kind).max, 0, -0.0]], dtype=kind)
    arrays["BYTES"] = np.array(
        [[b"", b"\x00\x01\x00", "größer".encode()], [b"a" * 5000, b"b", b"c"]], dtype=np.object_
    )
    return arrays


def types_inputs(arrays):
    """The inputs of `types`."""
    return [tensor(f"IN_{name}", array, name) for name, array in arrays.items()]


def differing(arrays, result):
    """The datatypes that did not come back as they were sent."""
    return [
        name
        for name, array in arrays.items()
        if not np.array_equal(result.as_numpy(f"OUT_{name}"), array)
    ]
