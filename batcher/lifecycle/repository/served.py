"""Which models of a repository are to be served, after what became of them so far. No I/O.

A version whose files changed is loaded beside the one that serves, and a version that the policy does
not choose any more serves on until those that take its place are loaded. A load that has failed is not
tried again until the files change or a call asks for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from batcher.lifecycle.repository.described import ModelScan
from batcher.lifecycle.wanted import ChangeResult, KnownModel, ModelChange, WantedModel

Identity = tuple[str, str]

TAKEN: Final = "the configuration file has a model of that name, too; rename one of them"
UNLOADED: Final = "unloaded"
SETTLING: Final = "its files have just changed; it is loaded when two scans in a row agree"


RETRY_UNAVAILABLE_S: Final = 30.0
"""Seconds until a load whose backend was not up for all of its `load_retry_timeout` is tried again. A third
less costs a few more log lines while the backend is away; a third more, ten seconds once it is back."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """A load that failed; `unavailable` because a backend was not up, and seen so at `since_s`."""

    wanted: WantedModel
    reason: str
    unavailable: bool = False
    since_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    """A load call that is under way: what it wants, and what held before it."""

    wanted: tuple[WantedModel, ...]
    overrides: bool
    overridden: ModelScan | None
    unloaded: tuple[WantedModel, ...] | None


class Served:
    """The models of one repository that are, or should be, served."""

    def __init__(self, taken: Callable[[], Collection[str]], *, follows: bool = True) -> None:
        """Have nothing served yet.

        `taken` returns names that another source has. `follows`: models are served without a call.
        """
        self._taken = taken
        self._follows = follows
        self._settled: dict[str, ModelScan] = {}
        self._overridden: dict[str, ModelScan] = {}
        self._calls: dict[str, deque[_Call]] = {}
        self._unloaded: dict[str, tuple[WantedModel, ...]] = {}
        self._good: dict[Identity, WantedModel] = {}
        self._failed: dict[Identity, _Failure] = {}
        self._pending: dict[Identity, WantedModel] = {}

    def taken(self, name: str) -> bool:
        """Whether another source has a model of that name."""
        return name in self._taken()

    def has(self, name: str) -> bool:
        """Whether a model of that name is, or should be, served."""
        return name in self._settled or name in self._overridden

    # The directory

    def settle(self, scan: ModelScan) -> None:
        """Serve a model as this scan says."""
        known = self._settled.get(scan.name)
        if known is None or not scan.same_files(known):
            self._settled[scan.name] = scan

    def forget_all_but(self, names: Collection[str]) -> None:
        """Serve no model any more whose folder is gone. Those of calls stay."""
        for name in self._settled.keys() - set(names):
            del self._settled[name]
            self._unloaded.pop(name, None)

    def retry(self, now_s: float) -> None:
        """Try loads again whose backend was not up, `RETRY_UNAVAILABLE_S` after that was seen first."""
        for identity, failure in tuple(self._failed.items()):
            if not failure.unavailable:
                continue
            if failure.since_s is None:
                self._failed[identity] = replace(failure, since_s=now_s)
            elif now_s - failure.since_s >= RETRY_UNAVAILABLE_S:
                del self._failed[identity]
                for scans in (self._settled, self._overridden):
                    scan = scans.get(identity[0])
                    if scan is not None:
                        wanted = tuple(_again(w) if w == failure.wanted else w for w in scan.wanted)
                        scans[scan.name] = replace(scan, wanted=wanted)

    # Admin calls

    def load(self, scan: ModelScan, *, overridden: bool) -> tuple[WantedModel, ...]:
        """Serve a model as this scan says, because a call wants it; returns its versions.

        Call `loaded` with what became of them.
        """
        name = scan.name
        call = _Call(scan.wanted, overridden, self._overridden.get(name), self._unloaded.get(name))
        self._calls.setdefault(name, deque()).append(call)
        if overridden:
            self._overridden[name] = scan
        else:
            self._overridden.pop(name, None)
            self._settled[name] = scan
        self._unloaded.pop(name, None)
        for wanted in scan.wanted:
            self._pending[wanted.identity] = wanted
        return scan.wanted

    def loaded(self, name: str, changes: Sequence[ModelChange]) -> None:
        """Note what became of the versions that `load` returned. An override that failed is undone.

        Several calls for one model end in the order in which they began.
        """
        calls = self._calls[name]
        call = calls.popleft()
        if not calls:
            del self._calls[name]
        by_identity = {wanted.identity: wanted for wanted in call.wanted}
        for change in changes:
            wanted = by_identity.get((change.name, change.version))
            if wanted is None:
                continue
            self._ended(wanted, change)
            # It serves also where another call has begun since: that one is told of later.
            if change.result is not ChangeResult.FAILED and name not in self._unloaded:
                self._good[wanted.identity] = wanted
        failed = all(change.result is ChangeResult.FAILED for change in changes)
        if calls or not call.overrides or not failed or name not in self._overridden:
            return
        del self._overridden[name]
        if call.overridden is not None:
            self._overridden[name] = call.overridden
        if call.unloaded is not None:
            self._unloaded[name] = call.unloaded

    def unload(self, name: str) -> None:
        """Do not serve a model until a call loads it. Its versions stay known as unloaded ones."""
        own = self._overridden.pop(name, None) is None and name in self._settled
        known = [each for each in self._good.values() if each.config.name == name] if own else ()
        self._unloaded.setdefault(name, tuple(known))
        self._good = {key: value for key, value in self._good.items() if key[0] != name}
        self._failed = {key: value for key, value in self._failed.items() if key[0] != name}
        self._pending = {key: value for key, value in self._pending.items() if key[0] != name}

    # The manager

    def target(self) -> tuple[WantedModel, ...]:
        """Every version that should be served now, those that stand in for others included."""
        taken = self._taken()
        wanted: list[WantedModel] = []
        for name in sorted(self._settled.keys() | self._overridden.keys()):
            if name in taken:
                continue
            unloaded = self._unloaded.get(name)
            wanted += self._of(name) if unloaded is None else unloaded
        return tuple(wanted)

    def _of(self, name: str) -> Iterator[WantedModel]:
        override = self._overridden.get(name)
        scan = self._settled[name] if override is None else override
        yield from scan.wanted
        whole = not scan.problems and all(
            self._good.get(wanted.identity) == wanted for wanted in scan.wanted
        )
        if whole:
            return
        chosen = {wanted.identity for wanted in scan.wanted}
        others = [w for i, w in self._good.items() if i[0] == name and i not in chosen]
        there = [w for w in others if override is not None or w.config.version in scan.present]
        yield from there
        serves = bool(there) or any(each in self._good for each in chosen)
        if not serves and any(self._reason(wanted) is None for wanted in scan.wanted):
            # The folders of all that serve are gone, and those that take their place are being loaded.
            yield from others

    def begin(self, target: Sequence[WantedModel]) -> tuple[WantedModel, ...]:
        """The models of the target that the manager has to load for it; call `end` with them."""
        begun = tuple(
            wanted
            for wanted in target
            if wanted.config.name not in self._unloaded
            and self._good.get(wanted.identity) != wanted
            and self._pending.get(wanted.identity) != wanted
            and self._reason(wanted) is None
        )
        for wanted in begun:
            self._pending[wanted.identity] = wanted
        return begun

    def end(self, begun: Sequence[WantedModel], changes: Sequence[ModelChange]) -> None:
        """Note what became of models; one that was changed again meanwhile is another's matter."""
        by_identity = {(change.name, change.version): change for change in changes}
        for wanted in begun:
            self._ended(wanted, by_identity.get(wanted.identity))
        kept = {wanted.identity for wanted in self.target()} | self._pending.keys()
        self._good = {key: value for key, value in self._good.items() if key in kept}
        self._failed = {key: value for key, value in self._failed.items() if key in kept}

    def _ended(self, wanted: WantedModel, change: ModelChange | None) -> None:
        """Note what became of one model, unless something else is loading in its place by now."""
        if self._pending.get(wanted.identity) != wanted:
            return
        del self._pending[wanted.identity]
        if change is None:
            return
        if change.result is ChangeResult.FAILED:
            self._failed[wanted.identity] = _Failure(wanted, change.reason, change.unavailable)
        elif change.result is not ChangeResult.REMOVED:
            self._good[wanted.identity] = wanted
            self._failed.pop(wanted.identity, None)

    def _reason(self, wanted: WantedModel) -> str | None:
        """Why the load of exactly this failed; None if it did not."""
        failed = self._failed.get(wanted.identity)
        return failed.reason if failed is not None and failed.wanted == wanted else None

    # Reports

    def in_use(self) -> Iterator[WantedModel]:
        """What serves, or is being loaded."""
        yield from self._good.values()
        yield from self._pending.values()

    def known(self, seen: Mapping[str, ModelScan]) -> Iterator[KnownModel]:
        """What is not served, and why; `seen` is what the last scan found."""
        taken = self._taken()
        for name in sorted(seen.keys() | self._settled.keys()):
            scan = self._overridden.get(name) or self._settled.get(name)
            newest = seen.get(name)
            if name in taken:
                yield KnownModel(name, "", TAKEN)
            elif name in self._unloaded:
                found = scan or newest
                versions = [each.config.version for each in found.wanted] if found else []
                yield from (KnownModel(name, version, UNLOADED) for version in versions or [""])
            elif scan is not None:
                yield from (KnownModel(name, version, why) for version, why in scan.problems)
                if newest is not None and not newest.readable:
                    yield from (KnownModel(name, version, why) for version, why in newest.problems)
            elif newest is not None:
                silent = SETTLING if self._follows else ""
                problems = newest.problems or (("", silent),)
                yield from (KnownModel(name, version, why) for version, why in problems)

    def broken(self, seen: Mapping[str, ModelScan]) -> int:
        """How many models are not served as their files say."""
        names = {
            each.name for each in self.known(seen) if each.reason not in {"", UNLOADED, SETTLING}
        }
        return len(names | {identity[0] for identity in self._failed})


def _again(wanted: WantedModel) -> WantedModel:
    """The same model as one that has not been tried: contents are equal only to their own."""
    contents, _, tries = wanted.contents.partition("/")
    return replace(wanted, contents=f"{contents}/{int(tries or 0) + 1}")
