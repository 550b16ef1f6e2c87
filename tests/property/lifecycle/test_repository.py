"""Any history of a directory is served as the version policies say.

A reference keeps what should be served after every two scans: of each model the versions that its policy
chooses, as far as they load, and while one of those does not, also what served before and is still there.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batcher.config import ModelRepositoryConfig
from batcher.lifecycle import ChangeResult, ModelChange
from batcher.lifecycle.repository import RepositorySource, source

NAMES = st.sampled_from(["a", "b"])
VERSIONS = st.integers(1, 4)
POLICIES = {
    "": lambda there: there[:1],
    "version_policy { latest { num_versions: 2 } }": lambda there: there[:2],
    "version_policy { all { } }": lambda there: there,
    "version_policy { specific { versions: [ 1, 3 ] } }": lambda there: [
        each for each in there if each in {1, 3}
    ],
}


class Manager:
    """Loads at once; a version whose file says `broken` fails."""

    def __init__(self):
        self.served = {}
        self.unloaded = {}

    def unload(self, name):
        for identity in [each for each in self.served if each[0] == name]:
            self.unloaded[identity] = self.served.pop(identity)

    async def serve(self, _, models):
        changes = []
        for wanted in models:
            before = self.served.get(wanted.identity)
            if wanted in (before, self.unloaded.get(wanted.identity)):
                result = ChangeResult.UNCHANGED
            elif (wanted.base_dir / "model.onnx").read_text() == "broken":
                result = ChangeResult.FAILED
            else:
                self.served[wanted.identity] = wanted
                self.unloaded.pop(wanted.identity, None)
                result = ChangeResult.LOADED
            changes.append(ModelChange(*wanted.identity, result, "it is broken"))
        wanted = {model.identity for model in models}
        self.served = {key: value for key, value in self.served.items() if key in wanted}
        return tuple(changes)


class Histories(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp())
        self.path = self.root / "models"
        self.path.mkdir()
        self.written = 0
        self.models = {}
        self.expected = {}
        self.unloaded = set()
        self.away = False
        self.manager = Manager()
        config = ModelRepositoryConfig(path=self.path)
        self.source = RepositorySource(config, self.manager, tuple)
        source.SETTLING_S = 0
        self.run(self.source.start())
        self.run(self.source.first_loaded())

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def teardown(self):
        self.run(self.source.close())
        self.loop.close()
        shutil.rmtree(self.root)

    def folder(self, name):
        return (self.root / "away" if self.away else self.path) / name

    def configure(self, name, text):
        self.folder(name).mkdir(exist_ok=True)
        (self.folder(name) / "config.pbtxt").write_text(f'backend: "onnxruntime"\n{text}\n')

    # What people do to a directory

    @rule(name=NAMES, version=VERSIONS, broken=st.booleans())
    def write_a_version(self, name, version, broken):
        self.written += 1
        model = self.models.setdefault(name, {"policy": "", "versions": {}})
        folder = self.folder(name) / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_text("broken" if broken else f"{self.written:04}")
        model["versions"][version] = (self.written, broken)

    @rule(name=NAMES, version=VERSIONS)
    def remove_a_version(self, name, version):
        if name in self.models and self.models[name]["versions"].pop(version, None):
            shutil.rmtree(self.folder(name) / str(version))

    @rule(name=NAMES, policy=st.sampled_from([*POLICIES, None]))
    def change_the_policy(self, name, policy):
        """None is a file that cannot be read as one."""
        if name in self.models:
            self.models[name]["policy"] = policy
            self.configure(name, "nonsense here" if policy is None else policy)

    @rule(name=NAMES)
    def remove_a_model(self, name):
        if self.models.pop(name, None):
            shutil.rmtree(self.folder(name))

    @rule(name=NAMES)
    def unload_by_a_call(self, name):
        if name in self.expected:
            self.run(self.source.unload(name))
            self.unloaded.add(name)
            self.expected.pop(name)
            self.manager.unload(name)

    @precondition(lambda self: not self.away)
    @rule()
    def the_directory_goes_away(self):
        self.path.rename(self.root / "away")
        self.away = True

    @precondition(lambda self: self.away)
    @rule()
    def the_directory_comes_back(self):
        (self.root / "away").rename(self.path)
        self.away = False

    @rule()
    def scan_twice(self):
        for _ in range(2):
            self.run(self.scan())
        if not self.away:
            self.expect()
        served = {}
        for wanted in self.manager.served.values():
            versions = served.setdefault(wanted.config.name, {})
            versions[int(wanted.config.version)] = wanted.contents
        assert {n: set(v) for n, v in served.items()} == {
            n: set(v) for n, v in self.expected.items() if v
        }

    async def scan(self):
        self.source._take(await self.source._scan())
        self.source._say()
        self.source._apply()
        while self.source._tasks:
            await asyncio.wait(self.source._tasks)

    def expect(self):
        before, self.expected = self.expected, {}
        self.unloaded &= self.models.keys()
        for name, model in self.models.items():
            if name in self.unloaded:
                continue
            there = sorted(model["versions"], reverse=True)
            kept = {v: before[name][v] for v in there if v in before.get(name, {})}
            if model["policy"] is None:
                self.expected[name] = kept
                continue
            chosen = POLICIES[model["policy"]](there)
            serves, whole = {}, bool(chosen)
            for version in chosen:
                written, broken = model["versions"][version]
                if not broken:
                    serves[version] = written
                else:
                    whole = False
                    if version in kept:
                        serves[version] = kept[version]
            self.expected[name] = serves if whole else kept | serves

    @invariant()
    def nothing_that_is_served_is_forgotten(self):
        assert {w.identity for w in self.source._served.in_use()} >= self.manager.served.keys()


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestHistories = Histories.TestCase
