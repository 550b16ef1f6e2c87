import re

import pytest

from batcher.errors import ModelLoadError, PluginError
from batcher.executor import LoadContext
from batcher.executors.emulated import EmulatedExecutor
from batcher.plugins import executor_names, find_executor, for_model, is_async

BLOCKING = """
from batcher.executor import Capabilities

class Good:
    capabilities = Capabilities()
    def load(self, context): ...
    def execute(self, batch): ...
    def close(self): ...

class Remote:
    capabilities = Capabilities(max_in_flight=4)
    async def load(self, context): ...
    async def execute(self, batch): ...
    async def close(self): ...

class Mixed(Good):
    async def execute(self, batch): ...

class Unfinished:
    capabilities = Capabilities()
    def load(self, context): ...

class Secretive(Good):
    capabilities = None

def function(): ...
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution on the path: `install(dist, module, source, name=attribute, ...)`."""

    def install(dist, module, source, **names):
        home = tmp_path / dist
        info = home / f"{dist.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
        points = "\n".join(f"{name} = {module}:{value}" for name, value in names.items())
        (info / "entry_points.txt").write_text(f"[batcher.executors]\n{points}\n")
        (home / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(home)

    return install


def refusal(name):
    with pytest.raises(PluginError) as caught:
        find_executor(name)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_emulated_executor_is_found_by_name():
    assert "emulated" in executor_names()
    assert find_executor("emulated") is EmulatedExecutor


def test_plugins_are_found_blocking_and_not(install):
    install("dist-a", "plugin_found", BLOCKING, good="Good", remote="Remote")
    assert {"good", "remote"} <= set(executor_names())
    assert find_executor("good").__name__ == "Good"
    assert not is_async(find_executor("good"))
    assert is_async(find_executor("remote"))


def test_unknown_name_lists_the_installed_ones_and_the_nearest():
    message = refusal("emulatd")
    assert "no executor named 'emulatd' (did you mean 'emulated'?)" in message
    assert re.search(r"installed: .*emulated", message)
    assert "did you mean" not in refusal("zzz")


def test_failed_import_names_the_distribution_and_the_reason(install):
    install("dist-broken", "plugin_broken", "import there_is_no_such_module", broken="Executor")
    message = refusal("broken")
    assert "plugin_broken:Executor of dist-broken 1.0" in message
    assert "could not be imported" in message
    assert "No module named 'there_is_no_such_module'" in message


def test_module_that_exits_does_not_end_the_server(install):
    install("dist-exit", "plugin_exit", "raise SystemExit('bye\\nbye')", leaving="Executor")
    assert "SystemExit: bye bye" in refusal("leaving")


def test_missing_attribute_is_a_failed_import(install):
    install("dist-typo", "plugin_typo", BLOCKING, typo="Goood")
    assert "has no attribute 'Goood'" in refusal("typo")


def test_broken_plugin_does_not_affect_others(install):
    install("dist-broken", "plugin_broken_too", "1 / 0", broken="Executor")
    assert find_executor("emulated") is EmulatedExecutor


def test_name_in_two_distributions_is_refused_with_both(install):
    install("dist-one", "plugin_one", BLOCKING, twice="Good")
    install("dist-two", "plugin_two", BLOCKING, twice="Good")
    message = refusal("twice")
    assert "plugin_one:Good of dist-one 1.0 and plugin_two:Good of dist-two 1.0" in message


@pytest.mark.parametrize(
    ("attribute", "problem"),
    [
        ("function", "expected a class, got function"),
        ("Unfinished", "Unfinished has no method execute, close"),
        ("Mixed", "Mixed mixes blocking methods and coroutines (execute)"),
        ("Secretive", "Secretive.capabilities must be a class attribute"),
    ],
)
def test_other_objects_are_refused_with_the_reason(install, attribute, problem):
    install("dist-odd", "plugin_odd", BLOCKING, odd=attribute)
    message = refusal("odd")
    assert "is not an executor" in message
    assert problem in message


def test_an_executor_may_choose_its_class_for_a_model():
    class Chosen(EmulatedExecutor):
        @classmethod
        def for_model(cls, context):
            if context.options["raise"]:
                raise context.options["raise"]
            return context.options["class"]

    def chosen(kind, error=None):
        options = {"class": kind, "raise": error}
        return for_model(Chosen, LoadContext("m", "1", 0, "cpu", 8, options))

    assert for_model(EmulatedExecutor, LoadContext("m", "1", 0, "cpu", 8, {})) is EmulatedExecutor
    assert chosen(EmulatedExecutor) is EmulatedExecutor
    with pytest.raises(
        ModelLoadError, match=r"for_model.* of Chosen returned no executor: expected"
    ):
        chosen(None)
    with pytest.raises(ModelLoadError, match="the executor could not load: SystemExit: 3"):
        chosen(None, SystemExit(3))
    with pytest.raises(ModelLoadError, match="no file"):
        chosen(None, ModelLoadError("no file"))
