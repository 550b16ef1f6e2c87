"""One model name and version over its generations: which one serves, which one is loaded, which one drains.

| while | new requests go to | accepted requests stay with |
|---|---|---|
| the first generation is loaded | none (UNAVAILABLE) | |
| one serves | it | it |
| another is loaded beside it | the old one | the old one |
| the old one drains | the new one | the old one |
| it is replaced one instance after the other | the old one, then the new one; none (UNAVAILABLE) while the only instance is replaced | the generation that accepted them |
| it is unloaded, or failed | none (UNAVAILABLE) | it |

Loads and unloads of a model run one at a time. A third generation is not loaded before the first has
drained, so that a model takes the memory of two generations at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

from batcher.clock import SECOND
from batcher.config import TUNABLE, ModelConfig
from batcher.errors import ModelLoadError, OutOfMemory, StartupError, UnloadedWhileLoading
from batcher.lifecycle.building import Builder
from batcher.lifecycle.one_by_one import replace_instances
from batcher.lifecycle.wanted import ChangeResult, Source, WantedModel
from batcher.runtime.health import ModelState
from batcher.runtime.interface.padding_rules import PaddingRules, read_padding_rules
from batcher.runtime.models.model import CLOSE_TIMEOUT_S, ServedModel
from batcher.runtime.models.registry import ModelRegistry
from batcher.telemetry import ReloadResult, Telemetry

log = logging.getLogger(__name__)


class ManagedModel:
    """One model name and version. Call every method on the event loop's thread.

    `changed` is called when what serves has changed.
    """

    def __init__(
        self,
        wanted: WantedModel,
        source: Source,
        builder: Builder[Any],
        registry: ModelRegistry,
        telemetry: Telemetry,
        changed: Callable[[], None],
        *,
        required: bool = False,
    ) -> None:
        self.name, self.version = wanted.identity
        self.source = source
        self.wanted = wanted
        """What its source asked for last."""
        self.served_as = wanted
        """What the generation that serves was made from, and tuned to since."""
        self.served: ServedModel | None = None
        """The generation that gets new requests; None before the first one is built."""
        self.loading_as: WantedModel | None = None
        """What is being loaded now."""
        self.failed_as: WantedModel | None = None
        """What could not be loaded last, while it has not been replaced by what could."""
        self.removed = False
        """Whether no source wants it any more; it drains."""
        self.required = required
        self._builder = builder
        self._registry = registry
        self._telemetry = telemetry
        self._changed = changed
        self._number = 0
        self._turn = asyncio.Lock()
        self.ended = 0
        """How often loads were ended."""
        self._closed = False
        self._gone = False
        """Whether nothing of it is left."""
        self._why_ended = ""
        self._load: asyncio.Task[None] | None = None
        self._draining: tuple[ServedModel, WantedModel, asyncio.Task[None]] | None = None
        self._ending: asyncio.Task[None] | None = None
        """The drain of the generation that serves, before an unload."""
        self._incomplete = False
        """Whether the generation that serves has lost instances to a replacement that ended."""

    # What others see of it

    @property
    def loading(self) -> ServedModel | None:
        """The generation that is loaded beside the one that serves."""
        return None if self.served is None else self.served.beside

    @property
    def serves(self) -> bool:
        """Whether a generation is loaded and takes requests."""
        return self.served is not None and self.served.state is ModelState.READY

    @property
    def unloaded(self) -> bool:
        """Whether an admin call has unloaded it."""
        return self.served is not None and self.served.state is ModelState.UNLOADED

    def generations(self) -> Iterator[tuple[ServedModel, WantedModel]]:
        """Every generation that the scheduler may know, and what it was made from."""
        if self._draining is not None:
            yield self._draining[:2]
        if self.served is not None:
            yield self.served, self.served_as
        if self.loading is not None and self.loading_as is not None:
            yield self.loading, self.loading_as

    @property
    def incomplete(self) -> bool:
        """Whether the generation that serves has lost instances to a replacement that was ended."""
        return self._incomplete

    # Changes

    def build_first(self) -> None:
        """Build the first generation and let it be found. Blocks. Raises `PluginError`, `ModelLoadError`."""
        self._number = 1
        model = self._builder.build(self._builder.prepare(self.wanted), 1)
        self._put(model, self.wanted)
        model.required = self.required

    def configured(self, config: ModelConfig) -> None:
        """Note that what serves was configured as `config` says, in place.

        What is being loaded is configured so, too, unless it is to have other settings than that had.
        """
        before, self.served_as = self.served_as, replace(self.served_as, config=config)
        if self.served is not None:
            self.served.tuned(config)
        loading, loading_as = self.loading, self.loading_as
        if loading is None or loading_as is None:
            return
        if all(getattr(before.config, k) == getattr(loading_as.config, k) for k in TUNABLE):
            tuned: dict[str, Any] = {key: getattr(config, key) for key in TUNABLE}
            self.loading_as = replace(loading_as, config=loading_as.config.model_copy(update=tuned))
            try:
                loading.configure(*_settings(self.loading_as, loading))
                loading.tuned(self.loading_as.config)
            except Exception:
                log.exception(
                    "%s: settings that were changed while it is loaded could not be given to the next"
                    " generation",
                    _shown(loading),
                )

    def configure(self, wanted: WantedModel) -> ChangeResult:
        """Serve `wanted`, which needs nothing to be loaded, from now on."""
        self.wanted, self.failed_as = wanted, None
        if self.served is not None and self.serves and self.served_as.config != wanted.config:
            settings, rules = _settings(wanted, self.served)
            if (settings, rules) != (self.served.settings, self.served.rules):
                self.served.configure(settings, rules)
            self.served.tuned(wanted.config)
        changed = self.served_as != wanted
        self.served_as = wanted
        return ChangeResult.CONFIGURED if changed else ChangeResult.UNCHANGED

    def revive(self, source: Source) -> None:
        """Want it again, although it is being removed."""
        self.removed, self.source = False, source
        if self.served is not None:
            self._registry.put(self.served)

    def end_load(self, why: str) -> None:
        """End the load that is in progress, and those that wait for their turn."""
        self.ended += 1
        self._why_ended = why
        if self._load is not None:
            self._load.cancel()

    async def load_first(self) -> None:
        """Load the generation that `build_first` built."""
        assert self.served is not None  # noqa: S101 - the caller has built it
        await self._in_turn(self._load_alone(self.served), self.ended)

    async def load(self, wanted: WantedModel, ended: int) -> ChangeResult:
        """Load `wanted`: beside the generation that serves, or alone where none does.

        It is ended if `end_load` is called, also before its turn: `ended` is the value of that attribute
        when the load was decided. Raises `ModelLoadError`, and its subclass `UnloadedWhileLoading` if it was ended meanwhile; what
        served before serves on.
        """
        reloads = self.serves
        await self._in_turn(self._load_next(wanted), ended)
        return ChangeResult.RELOADED if reloads else ChangeResult.LOADED

    async def unload(self) -> None:
        """Refuse new requests, answer what was accepted, close."""
        self.end_load("the model was unloaded while it was loading")
        await self._end()

    def forget(self) -> None:
        """Do not let it be found any more. Call `remove` next."""
        self.removed = True
        self.end_load("the model was removed while it was loading")
        self._registry.remove(self.name, self.version)
        self._changed()

    async def remove(self) -> bool:
        """Answer what was accepted, close, and export nothing of it any more; returns whether that was done.

        It is not where the model is wanted again, nor where another call of this has done it: then its
        name may be another one's by now.
        """
        if not self.removed:
            return False
        await self._end()
        if self._gone or not self.removed:
            return False
        self._gone = True
        self._telemetry.remove(self.name, self.version)
        return True

    async def close(self) -> None:
        """Close every generation at once; what is unanswered fails."""
        self._closed = True
        self.end_load("the server was shut down while the model was loading")
        if self._load is not None:
            await asyncio.wait((self._load,), timeout=CLOSE_TIMEOUT_S)
        if self._load is not None:
            self._load.cancel()
        for drain in (self._ending, None if self._draining is None else self._draining[2]):
            if drain is not None:
                drain.cancel()
        async with self._turn:
            await self._drain_over()
            if self.served is not None:
                self.served.enter(ModelState.UNLOADED, "unloaded")
                await self.served.close(CLOSE_TIMEOUT_S)
                self._telemetry.forget(self.served.key)

    # How it is done

    async def _in_turn(self, load: Coroutine[Any, Any, None], ended: int) -> None:
        """Run a load when those before it are over. Raises `UnloadedWhileLoading` if it is ended."""
        try:
            async with self._turn:
                if ended == self.ended and not self._closed:
                    await self._run(load)
                    return
        finally:
            load.close()
        raise self._unloaded()

    async def _run(self, load: Coroutine[Any, Any, None]) -> None:
        task = self._load = asyncio.ensure_future(load)
        try:
            await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if task.cancelled() and not (current and current.cancelling()):
                raise self._unloaded() from None
            task.cancel()
            await asyncio.wait((task,))
            raise
        finally:
            self._load = None

    def _unloaded(self) -> UnloadedWhileLoading:
        return UnloadedWhileLoading(f"{self.name}: {self._why_ended}")

    async def _load_next(self, wanted: WantedModel) -> None:
        self.loading_as = wanted
        try:
            await self._drain_over()
            fresh = await self._build(wanted)
            if self.serves:
                await self._reload(fresh, wanted)
            else:
                if self.served is not None:
                    await self.served.close(CLOSE_TIMEOUT_S)
                    self._telemetry.forget(self.served.key)
                fresh.required = False
                self._put(fresh, wanted)
                await self._load_alone(fresh)
        finally:
            self.loading_as = None

    async def _build(self, wanted: WantedModel) -> ServedModel:
        try:
            prepared = await asyncio.to_thread(self._builder.prepare, wanted)
        except StartupError as error:
            prepared = self._builder.unprepared(wanted, error)
        self._number += 1
        return self._builder.build(prepared, self._number)

    def _put(self, model: ServedModel, wanted: WantedModel) -> None:
        """Send new requests to this generation."""
        self.served, self.served_as = model, wanted
        if not self.removed:
            self._registry.put(model)
        model.telemetry.serves(model.key, model.generation)
        model.tell_telemetry()
        self._changed()

    async def _load_alone(self, model: ServedModel) -> None:
        """Load a generation while none serves."""
        self.failed_as = None
        try:
            await model.load()
        except BaseException:
            self.failed_as = self.served_as
            self._telemetry.forget(model.key)
            raise
        model.required = self.required
        self._incomplete = False
        log.info("%s is served, generation %d", _shown(model), model.generation)

    async def _reload(self, fresh: ServedModel, wanted: WantedModel) -> None:
        """Load a generation while another one serves, and replace that one."""
        old = self.served
        assert old is not None  # noqa: S101 - it serves
        telemetry = fresh.telemetry
        old.beside = fresh
        fresh.replaces = old.key
        self._changed()
        try:
            if wanted.config.reload == "one_by_one":
                await self._replace_instances(old, fresh, wanted)
            else:
                await self._load_beside(old, fresh, wanted)
        except ModelLoadError as error:
            self.failed_as = wanted
            telemetry.reloaded(ReloadResult.FAILED)
            assert self.served is not None  # noqa: S101 - a generation serves, or failed
            self.served.note = f"reload failed: {error}"
            log.error(  # noqa: TRY400 - the message has the reason
                "%s could not be loaded again, what was served before serves on: %s",
                _shown(old),
                error,
            )
            raise
        except asyncio.CancelledError:
            telemetry.reloaded(ReloadResult.CANCELLED)
            raise
        finally:
            old.beside = None
            self._changed()
        self.failed_as, self._incomplete = None, False
        telemetry.reloaded(ReloadResult.SUCCEEDED)
        log.info("%s: generation %d has taken over", _shown(fresh), self._number)

    async def _load_beside(self, old: ServedModel, fresh: ServedModel, wanted: WantedModel) -> None:
        try:
            await fresh.load()
        except OutOfMemory as error:
            self._telemetry.forget(fresh.key)
            log.warning(
                "%s: no room for a second generation (%s); its instances are replaced one after the other",
                _shown(old),
                error,
            )
        except BaseException:
            self._telemetry.forget(fresh.key)
            raise
        else:
            self._take_over(fresh, self.loading_as or wanted)
            return
        fresh = old.beside = await self._build(wanted)
        await self._replace_instances(old, fresh, wanted)

    async def _replace_instances(
        self, old: ServedModel, fresh: ServedModel, wanted: WantedModel
    ) -> None:
        before = self.served_as
        timeout_s = before.config.drain_timeout / SECOND
        self._incomplete = True

        async def take_over() -> None:
            self._take_over(fresh, self.loading_as or wanted)
            await self._drain_over()

        try:
            await replace_instances(old, fresh, take_over, timeout_s)
        except ModelLoadError as error:
            old.beside = None
            if self.served is old:
                self._telemetry.forget(fresh.key)
                self._incomplete = not old.complete
                raise
            await self._bring_back(fresh, before, error)
            raise ModelLoadError(f"{error}; the one before was loaded again") from error
        except BaseException:
            if self.served is old:
                self._telemetry.forget(fresh.key)
            raise

    async def _bring_back(
        self, broken: ServedModel, before: WantedModel, error: ModelLoadError
    ) -> None:
        """Replace a generation of which not every instance could be loaded by the one before it."""
        log.error("%s: %s; the one before is loaded again", _shown(broken), error)
        await self._drain_over()
        back = await self._build(before)
        broken.beside = back

        async def take_over() -> None:
            self._take_over(back, before)
            await self._drain_over()

        try:
            await replace_instances(broken, back, take_over, before.config.drain_timeout / SECOND)
        except ModelLoadError as again:
            raise ModelLoadError(
                f"{error}; the one before could not be loaded again either: {again}"
            ) from error
        finally:
            broken.beside = None
            if self.served is not back:
                self._telemetry.forget(back.key)

    def _take_over(self, fresh: ServedModel, wanted: WantedModel) -> None:
        """Send new requests to a generation that is loaded, and let the old one drain."""
        old, old_as = self.served, self.served_as
        assert old is not None  # noqa: S101 - it serves
        old.beside = None
        fresh.required = self.required
        self._put(fresh, wanted)
        timeout_s = old_as.config.drain_timeout / SECOND
        self._draining = old, old_as, asyncio.create_task(self._drain(old, timeout_s))

    async def _drain(self, old: ServedModel, timeout_s: float) -> None:
        try:
            await old.drain(timeout_s)
        except asyncio.CancelledError:
            await old.close(CLOSE_TIMEOUT_S)
        except Exception:
            log.exception("%s: internal error: it could not be drained", _shown(old))
        finally:
            self._telemetry.forget(old.key)
            self._draining = None
            self._changed()

    async def _drain_over(self) -> None:
        """Wait until the generation that was replaced last has drained."""
        if self._draining is not None:
            await asyncio.wait((self._draining[2],))

    async def _end(self) -> None:
        """Drain and close what serves."""
        async with self._turn:
            model = self.served
            if model is None or model.state is ModelState.UNLOADED:
                await self._drain_over()
                return
            model.enter(ModelState.UNLOADED, "unloading")
            timeout_s = self.served_as.config.drain_timeout / SECOND
            self._ending = asyncio.create_task(model.drain(timeout_s))
            try:
                await asyncio.wait((self._ending,))
                await self._drain_over()
            finally:
                self._ending = None
            model.enter(ModelState.UNLOADED, "unloaded")
            self._telemetry.forget(model.key)


def _settings(wanted: WantedModel, model: ServedModel) -> tuple[Any, PaddingRules]:
    """The settings of a model for the batches that its backend takes. Raises `ModelLoadError`."""
    try:
        config = model.fitted(wanted.config)
    except ValueError as error:
        raise ModelLoadError(f"{model.name}: {error}") from error
    return config.scheduler_settings(), read_padding_rules(config, wanted.where)


def _shown(model: ServedModel) -> str:
    return f"{model.name} version {model.version}"
