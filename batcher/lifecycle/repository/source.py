"""A model repository as a source of models: follows the directory, and tells the manager what to serve."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from batcher import triton
from batcher.clock import SECOND
from batcher.config import ModelRepositoryConfig
from batcher.errors import (
    ConfigError,
    InvalidRequest,
    ModelUnavailable,
    StartupError,
    UnknownModel,
    describe,
    shown,
)
from batcher.lifecycle.repository.described import ModelScan, one_line
from batcher.lifecycle.repository.directory import Directory, Scan
from batcher.lifecycle.repository.served import TAKEN, Served
from batcher.lifecycle.repository.threads import on_daemon_thread
from batcher.lifecycle.repository.uploads import Uploads
from batcher.lifecycle.wanted import (
    KnownModel,
    LoadParameters,
    ModelChange,
    ServesModels,
    Source,
    WantedModel,
)
from batcher.telemetry import RepositoryPoints
from batcher.triton_models import parse_json

T = TypeVar("T")

log = logging.getLogger(__name__)

SETTLING_S: Final = 0.1
"""Seconds between the two scans at the start that have to agree."""

SCAN_TIMEOUT_S: Final = 30.0
"""Seconds after which a scan counts as hanging (a network file system that does not answer). Models are
served on, and no other scan begins before it has ended."""


class RepositorySource:
    """Follows one directory. Call every method on the event loop's thread."""

    def __init__(
        self,
        config: ModelRepositoryConfig,
        manager: ServesModels,
        taken: Callable[[], Collection[str]],
    ) -> None:
        """`taken` returns the names of models that the configuration file has."""
        self._config = config
        self._manager = manager
        self._follows = config.control == "poll"
        self._directory = Directory(config.path, config.defaults)
        self._uploads = Uploads()
        self._folders: list[Path] = []
        self._calls = 0
        self._served = Served(taken, follows=self._follows)
        self._seen: dict[str, ModelScan] = {}
        self._asked: tuple[WantedModel, ...] = ()
        self._scanning = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._first: set[asyncio.Task[None]] = set()
        self._said: dict[str, str] = {}
        self._problem = ""
        self._scans = {"ok": 0, "failed": 0}

    async def start(self) -> None:
        """Scan the directory and begin to have served what it asks for. Call `run` next.

        Raises `StartupError` if the directory cannot be read or has not what `load` names.
        """
        scan = await self._scan()
        if scan.problem:
            raise StartupError(f"model_repository.path: {scan.problem}")
        self._take(scan)
        if self._follows:
            await asyncio.sleep(SETTLING_S)
            self._take(await self._scan())
        for place, name in enumerate(self._config.load):
            if name not in scan.models:
                known = ", ".join(scan.models) or "none"
                raise StartupError(
                    f"model_repository.load[{place}]: got {name}; allowed: a model of"
                    f" {self._config.path}, which has: {known}"
                )
            self._served.settle(scan.models[name])
        self._say()
        self._apply()
        self._first = set(self._tasks)

    async def first_loaded(self) -> None:
        """Wait until each model that was there at the start is loaded, or has failed to load."""
        if self._first:
            await asyncio.wait(self._first)

    async def run(self) -> NoReturn:
        """Follow the directory until cancelled. Never ends for what is in it."""
        while True:
            await asyncio.sleep(self._config.poll_interval / SECOND)
            try:
                self._take(await self._scan())
                self._served.retry(asyncio.get_running_loop().time())
                self._say()
                self._apply()
            except Exception:
                log.exception(
                    "internal error: the model repository could not be followed; it goes on"
                )

    async def close(self) -> None:
        """Stop telling the manager anything, and remove the files of load calls."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._uploads.close)

    # Admin calls

    async def load(self, name: str, parameters: LoadParameters) -> Sequence[WantedModel]:
        """See `ModelRepository.load`. Raises `ModelUnavailable` too, if the directory does not answer."""
        if self._served.taken(name):
            raise InvalidRequest(f"{name}: {TAKEN}")
        self._calls += 1
        try:
            scan = await self._wanted_by_call(name, parameters)
            wanted = self._served.load(scan, overridden=bool(parameters))
        finally:
            # From here on nothing is waited for: the manager has to hear of what it is to load.
            self._calls -= 1
            self._collect()
        self._say()
        return wanted

    async def loaded(self, name: str, changes: Sequence[ModelChange]) -> None:
        """See `ModelRepository.loaded`."""
        self._served.loaded(name, changes)
        self._apply()
        self._collect()

    async def unload(self, name: str) -> None:
        """See `ModelRepository.unload`. Raises `UnknownModel`."""
        if not self._served.has(name) and name not in self._seen:
            raise self._unknown(name)
        self._served.unload(name)
        self._collect()

    def known(self) -> Sequence[KnownModel]:
        """See `ModelRepository.known`."""
        return tuple(self._served.known(self._seen))

    def points(self) -> RepositoryPoints:
        """What its metrics say."""
        return RepositoryPoints(
            readable=not self._problem,
            models=len(self._seen),
            broken=self._served.broken(self._seen),
            scans=dict(self._scans),
        )

    async def _wanted_by_call(self, name: str, parameters: LoadParameters) -> ModelScan:
        """What a call wants: at least one version of the model. Raises what `load` raises."""
        text, files = parameters.config, parameters.files

        def scan() -> ModelScan:
            if not files and not self._directory.has(name):
                raise self._unknown(name)
            if not parameters:
                return self._directory.scan_model(name)
            config = None if text is None else parse_json(text, f"{name}: parameter config")
            folder = None
            if files:
                folder = self._uploads.write(name, files)
                self._folders.append(folder)
            return self._directory.overridden(name, config, folder)

        try:
            found = await self._on_thread(scan)
        except ConfigError as error:
            raise InvalidRequest(one_line(error)) from error
        except OSError as error:
            raise ModelUnavailable(f"{name}: {describe(error)}") from error
        if not found.wanted:
            raise InvalidRequest(f"{name}: {'; '.join(why for _, why in found.problems)}")
        return found

    def _unknown(self, name: str) -> UnknownModel:
        known = ", ".join(sorted(self._seen)) or "none"
        return UnknownModel(
            f"unknown model {shown(name)}; models of {self._config.path}: {known}",
            triton=triton.unknown_model(name),
        )

    # Scanning the directory

    async def _scan(self) -> Scan:
        try:
            scan = await self._on_thread(self._directory.scan)
        except ModelUnavailable as error:
            scan = Scan(problem=str(error))
        self._scans["failed" if scan.problem else "ok"] += 1
        return scan

    async def _on_thread(self, work: Callable[[], T]) -> T:
        """Run work that scans the directory, one piece at a time.

        Raises `ModelUnavailable` if it takes longer than `SCAN_TIMEOUT_S`; what is late is not repeated
        before it has ended.
        """
        try:
            async with asyncio.timeout(SCAN_TIMEOUT_S):
                await self._scanning.acquire()
                running = asyncio.ensure_future(on_daemon_thread(work))
                running.add_done_callback(self._scan_ended)
                return await asyncio.shield(running)
        except TimeoutError:
            raise ModelUnavailable(
                f"{self._config.path} does not answer within {SCAN_TIMEOUT_S:g} s"
            ) from None

    def _scan_ended(self, running: asyncio.Future[Any]) -> None:
        self._scanning.release()
        if not running.cancelled():
            running.exception()  # read, or asyncio logs it again if nothing waits any more

    def _take(self, scan: Scan) -> None:
        """Take what two scans in a row agree on."""
        if scan.problem and not self._problem:
            log.error(
                "model repository: %s; what is served stays until it can be read", scan.problem
            )
        elif self._problem and not scan.problem:
            log.info("model repository: %s can be read again", self._config.path)
        self._problem = scan.problem
        if scan.problem:
            return
        before, self._seen = self._seen, dict(scan.models)
        if not self._follows:
            return
        for name, found in scan.models.items():
            last = before.get(name)
            if found.readable and last is not None and found.same_files(last):
                self._served.settle(found)
        self._served.forget_all_but(before.keys() | self._seen.keys())

    def _say(self) -> None:
        """Log what is wrong with each model, and what of it has no effect, when that changes."""
        for name, scan in self._seen.items():
            texts = [f"version {each}: {why}" if each else why for each, why in scan.problems]
            text = "; ".join(texts)
            ignored = "; ".join(scan.ignored)
            if self._said.get(name) != f"{text}\n{ignored}":
                self._said[name] = f"{text}\n{ignored}"
                if text:
                    log.warning(
                        "model repository: %s is not served as its files say: %s", name, text
                    )
                if ignored:
                    log.warning("model repository: %s: %s", name, ignored)
        self._said = {name: text for name, text in self._said.items() if name in self._seen}

    # Telling the manager

    def _apply(self) -> None:
        """Have the manager serve what should be served, if that is not what it was told last."""
        target = self._served.target()
        if target == self._asked:
            return
        self._asked = target
        self._run(self._serve(target, self._served.begin(target)))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, target: Sequence[WantedModel], begun: Sequence[WantedModel]) -> None:
        changes: tuple[ModelChange, ...] = ()
        try:
            changes = await self._manager.serve(Source.REPOSITORY, target)
        except Exception:
            log.exception("internal error: the models of the repository could not be changed")
        finally:
            self._served.end(begun, changes)
        # Those that stood in for what is loaded now are not needed any more.
        self._apply()
        self._collect()

    def _collect(self) -> None:
        """Remove the files of load calls whose models are not served any more."""
        if self._calls:  # their files are not known to be used yet
            return
        used = [each.base_dir for each in self._served.in_use()]
        unused = [f for f in self._folders if not any(d.is_relative_to(f) for d in used)]
        if not unused:
            return
        self._folders = [folder for folder in self._folders if folder not in unused]
        for folder in unused:
            self._run(on_daemon_thread(partial(self._uploads.remove, folder)))
