"""What is used of a GPU: streams, events, pinned memory and graphs, each one call of PyTorch's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import torch

_capturing: Final = threading.Lock()
"""One graph is recorded at a time in a process: PyTorch's allocator has one state for it."""


class Gpu:
    """One device for one instance, with a stream each for copies in, computation and copies out.

    On streams of its own an instance waits for no other one, and the copies of one batch run beside
    the computation of another.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        make: Any = torch.cuda.Stream
        self.copy_in, self.compute, self.copy_out = make(device), make(device), make(device)
        self._pool: Any = None
        # What loads a model uses this thread's stream: it is done before another one reads the weights.
        torch.cuda.current_stream(device).synchronize()

    def on(self, stream: Any) -> Any:
        """A context in which this thread's work goes to that stream."""
        return torch.cuda.stream(stream)

    def mark(self, stream: Any) -> Any:
        """An event that comes when all that the stream has been given is done.

        Waiting for it blocks the thread and leaves the core to others: a sidecar shares its cores.
        """
        make: Any = torch.cuda.Event
        event = make(blocking=True)
        event.record(stream)
        return event

    def after(self, stream: Any, event: Any) -> None:
        """Let what the stream is given from now on wait for an event."""
        stream.wait_event(event)

    def wait(self, event: Any) -> None:
        """Wait for an event. Raises what went wrong on the device."""
        event.synchronize()

    def finish(self) -> None:
        """Wait for all that the streams have been given."""
        for stream in (self.copy_in, self.compute, self.copy_out):
            stream.synchronize()

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor in page-locked memory, which the device copies by itself.

        PyTorch keeps such memory when it is let go, and gives it again: allocating is cheap.
        """
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def free_unused(self) -> None:
        """Give memory that PyTorch keeps for later back to the device."""
        torch.cuda.empty_cache()

    def record(self, run: Callable[[], Any]) -> tuple[Any, Any]:
        """Record what `run` does on the stream `compute` as a graph; returns the graph and its value.

        Graphs of one instance share memory: they are replayed one after the other, and their outputs
        are copied before the next one.
        """
        with _capturing:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # Other instances go on meanwhile, on threads of their own.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self.compute, capture_error_mode="thread_local"
            ):
                value = run()
        return graph, value
