"""A model repository in a temporary folder, and a manager that loads nothing."""

import asyncio

import pytest

from batcher.config import ModelRepositoryConfig
from batcher.lifecycle import ChangeResult, LoadParameters, ModelChange
from batcher.lifecycle.repository import RepositorySource, source

NOTHING = LoadParameters()


class Repository:
    """Writes models in Triton's layout."""

    def __init__(self, path):
        self.path = path
        path.mkdir()

    def write(self, name, *versions, config='backend: "onnxruntime"\n', overrides=None):
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        if config is not None:
            (folder / "config.pbtxt").write_text(config)
        if overrides is not None:
            (folder / "batcher.yaml").write_text(overrides)
        for version in versions:
            self.file(name, version)
        return folder

    def file(self, name, version, text="weights", file="model.onnx"):
        folder = self.path / name / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)


class Manager:
    """Loads what it is told; `fails` holds identities whose loads fail, with the reason.

    A load waits for the event in `held` of its identity, if there is one. Like the real one it answers
    that a load in progress is unchanged, and what is loaded anew ends the load before.
    """

    def __init__(self):
        self.calls = []
        self.fails = {}
        self.served = {}
        self.failed = {}
        self.held = {}
        self.loading = {}
        self.unloaded = {}

    def unload(self, name):
        """As the manager does it when an admin call unloads a model."""
        for identity in [each for each in self.served if each[0] == name]:
            self.unloaded[identity] = self.served.pop(identity)

    async def serve(self, source, models):
        self.calls.append([f"{m.config.name}/{m.config.version}" for m in models])
        wanted = {model.identity for model in models}
        gone = [each for each in self.served if each not in wanted]
        for identity in gone:
            del self.served[identity]
        for identity in self.loading.keys() - wanted:
            del self.loading[identity]
        self.failed = {key: value for key, value in self.failed.items() if key in wanted}
        self.unloaded = {key: value for key, value in self.unloaded.items() if key in wanted}
        changes = await asyncio.gather(*map(self._changed, models))
        return (*changes, *(ModelChange(*each, ChangeResult.REMOVED) for each in gone))

    async def _changed(self, wanted):
        identity = wanted.identity
        known = self.served.get(identity), self.loading.get(identity), self.unloaded.get(identity)
        if wanted in known:
            return ModelChange(*identity, ChangeResult.UNCHANGED)
        if self.failed.get(identity) == wanted:
            return ModelChange(*identity, ChangeResult.FAILED)
        return await self.load(wanted)

    async def load(self, wanted):
        identity = wanted.identity
        self.loading[identity] = wanted
        self.unloaded.pop(identity, None)
        if identity in self.held:
            await self.held[identity].wait()
        if self.loading.get(identity) is not wanted:
            return ModelChange(*identity, ChangeResult.FAILED, "changed again")
        del self.loading[identity]
        if identity in self.fails:
            self.failed[identity] = wanted
            reason = self.fails[identity]
            return ModelChange(*identity, ChangeResult.FAILED, reason, reason == "not up")
        self.failed.pop(identity, None)
        result = ChangeResult.RELOADED if identity in self.served else ChangeResult.LOADED
        self.served[identity] = wanted
        return ModelChange(*identity, result)

    @property
    def names(self):
        return sorted(f"{name}/{version}" for name, version in self.served)


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "models")


@pytest.fixture
def manager():
    return Manager()


class Followed(RepositorySource):
    """A source whose scans the test decides on."""

    async def start(self):
        await super().start()
        await self.first_loaded()
        await self.settle()

    async def settle(self):
        """Let what is under way go on, and end unless the manager holds a load."""
        for _ in range(20):
            await asyncio.sleep(0)
        while self._tasks and not self._manager.loading:
            await asyncio.wait(self._tasks)

    async def poll(self, times=1):
        """Scan that many times, as `run` does."""
        for _ in range(times):
            self._take(await self._scan())
            self._say()
            self._apply()
            await self.settle()

    async def call(self, name, parameters=NOTHING):
        """A load call, as the manager carries it out."""
        wanted = await self.load(name, parameters)
        await self.loaded(name, [await self._manager.load(each) for each in wanted])
        await self.settle()

    def reasons(self):
        return {(each.name, each.version): each.reason for each in self.known()}


@pytest.fixture
def taken():
    return set()


@pytest.fixture
async def make(repository, manager, taken, monkeypatch):
    """A function from keys of `model_repository` to a source."""
    monkeypatch.setattr(source, "SETTLING_S", 0)
    made = []

    def call(**keys):
        config = ModelRepositoryConfig.model_validate({"path": str(repository.path)} | keys)
        made.append(Followed(config, manager, lambda: taken))
        return made[-1]

    yield call
    for each in made:
        await each.close()
