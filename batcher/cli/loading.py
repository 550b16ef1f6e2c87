"""Load models as `batcher serve` does, without serving them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING

from batcher.app import Application
from batcher.errors import ModelLoadError, StartupError
from batcher.lifecycle import ChangeResult, Source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from batcher.config import Config, ModelConfig
    from batcher.executor import ModelMetadata, TensorSpec
    from batcher.lifecycle import WantedModel


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that was loaded: how long that took and what it is, as text; and its metadata."""

    description: str
    metadata: ModelMetadata


async def load_models(
    config: Config, begins: Callable[[int], None], repository: Sequence[WantedModel] = ()
) -> AsyncIterator[tuple[int, Loaded | StartupError]]:
    """Load and warm up every model once, in order; all stay loaded until the last one is loaded.

    Yields for each its place, first those of the configuration and then those of its `repository`, and
    what it is or why it could not be loaded. `begins` is called with the place before each load.
    """
    once = tuple(_once(model) for model in config.models)
    application = Application(config.model_copy(update={"models": once, "model_repository": None}))
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
        wanted: list[WantedModel] = []
        for place, each in enumerate(repository, len(config.models)):
            begins(place)
            began_s = monotonic()
            wanted.append(replace(each, config=_once(each.config)))
            changes = await application.manager.serve(Source.REPOSITORY, wanted)
            if changes[-1].result is ChangeResult.FAILED:
                yield place, ModelLoadError(changes[-1].reason)
            else:
                metadata = application.models.find(*each.identity).metadata
                said = f"{monotonic() - began_s:.2f} s, {_described(metadata)}"
                yield place, Loaded(said, metadata)
    finally:
        await application.close()


def _once(model: ModelConfig) -> ModelConfig:
    """The model, for which loading is tried once."""
    return model.model_copy(update={"load_retry_timeout": 0})


def _described(metadata: ModelMetadata) -> str:
    about = [metadata.platform, *(f"{key} {text}" for key, text in metadata.properties.items())]
    if metadata.max_batch_size is not None:
        about.append(f"at most {metadata.max_batch_size} rows a batch")
    if metadata.batch_sizes:
        about.append(f"batches of {', '.join(map(str, metadata.batch_sizes))} rows only")
    return f"{_shapes(metadata.inputs)} -> {_shapes(metadata.outputs)} ({', '.join(about)})"


def _shapes(specs: Iterable[TensorSpec]) -> str:
    shown = (
        f"{spec.name} {spec.datatype} {list(spec.shape)}{' optional' if spec.optional else ''}"
        for spec in specs
    )
    return ", ".join(shown)
