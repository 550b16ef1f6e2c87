"""What the device of an instance means for it: whether it may be loaded there, and what a failure does."""

from __future__ import annotations

from collections.abc import Callable

from batcher.errors import ModelLoadError
from batcher.runtime.instances.plan import InstancePlan, ProcessContext


class OnDevice:
    """That an instance is on its device. Call every method on the event loop.

    `failed` is called with why the device has failed, `again` when it has not any more.
    """

    def __init__(
        self,
        plan: InstancePlan,
        process: ProcessContext,
        failed: Callable[[str], None],
        again: Callable[[], None],
    ) -> None:
        self._context = plan.context
        self._most_abandoned = plan.max_abandoned_threads
        self._process = process
        self._failed = failed
        self._again = again
        self._claim = process.devices.claim(plan.context.device, self._told)

    def check(self) -> None:
        """Raise `ModelLoadError` if the device has failed."""
        if why := self._claim.failure:
            raise ModelLoadError(f"model {self._context.model!r}: {why}")

    def uses(self, gpu: int | str | None) -> None:
        """Note which GPU the executor that is loaded uses. If the device has failed meanwhile, `failed` follows."""
        self._claim.uses(gpu)
        if self._claim.failure:
            self._process.loop.call_soon(self._failed_meanwhile)

    def held(self) -> str:
        """Why no replacement may be loaded now: the device has failed, or too many threads of the model hang."""
        if why := self._claim.failure:
            return why
        context, most = self._context, self._most_abandoned
        hanging = self._process.abandoned.count(context.model, context.version)
        if hanging <= most:
            return ""
        return (
            f"{hanging} threads that were abandoned are still in a call of the executor, and"
            f" max_abandoned_threads is {most}"
        )

    def close(self) -> None:
        """Note that it is on the device no more, until an executor is loaded again."""
        self._claim.close()

    def _failed_meanwhile(self) -> None:
        self._told(self._claim.failure)

    def _told(self, why: str) -> None:
        if why:
            self._failed(why)
        else:
            self._again()
