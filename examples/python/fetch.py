"""Code that waits for something else: coroutines, so that batches and rows wait at the same time."""

import asyncio


class Lookup:
    """Stands for a client of a store of features: every look-up takes a while, none takes the processor."""

    def __init__(self, delay: float = 0.01) -> None:
        self.delay = delay

    async def load(self) -> None:
        """Open connections here."""

    async def __call__(self, user: int) -> float:
        """The score of a user."""
        await asyncio.sleep(self.delay)
        return user % 100 / 100

    async def close(self) -> None:
        """Close them here."""
