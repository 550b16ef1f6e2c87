"""Load models as `batcher serve` does, without serving them."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from batcher.app import Application
from batcher.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from batcher.config import Config
    from batcher.executor import ModelMetadata, TensorSpec


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that was loaded: how long that took and what it is, as text; and its metadata."""

    description: str
    metadata: ModelMetadata


async def load_models(
    config: Config, begins: Callable[[int], None]
) -> AsyncIterator[tuple[int, Loaded | StartupError]]:
    """Load and warm up every model once, in order; all stay loaded until the last one is loaded.

    Yields for each its place in the configuration, and what it is or why it could not be loaded.
    `begins` is called with the place before each load.
    """
    once = tuple(model.model_copy(update={"load_retry_timeout": 0}) for model in config.models)
    application = Application(config.model_copy(update={"models": once}))
    try:
        for place, model in enumerate(application.models):
            begins(place)
            began_s = monotonic()
            try:
                await model.load()
            except StartupError as error:
                yield place, error
            else:
                said = f"{monotonic() - began_s:.2f} s, {_described(model.metadata)}"
                yield place, Loaded(said, model.metadata)
    finally:
        await application.close()


def _described(metadata: ModelMetadata) -> str:
    about = [metadata.platform, *(f"{key} {text}" for key, text in metadata.properties.items())]
    return f"{_shapes(metadata.inputs)} -> {_shapes(metadata.outputs)} ({', '.join(about)})"


def _shapes(specs: Iterable[TensorSpec]) -> str:
    shown = (
        f"{spec.name} {spec.datatype} {list(spec.shape)}{' optional' if spec.optional else ''}"
        for spec in specs
    )
    return ", ".join(shown)
