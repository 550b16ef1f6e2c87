"""Models are found by name and version, also while they come and go."""

from dataclasses import dataclass

import pytest

from batcher.errors import UnknownModel
from batcher.runtime.models.registry import ModelRegistry


@dataclass(eq=False)
class Model:
    name: str
    version: str
    ready: bool = True


def test_without_a_version_the_newest_that_is_ready_is_found():
    first, second, tenth = Model("m", "1"), Model("m", "2"), Model("m", "10", ready=False)
    registry = ModelRegistry([first, tenth, second])
    assert registry.versions("m") == ["10", "2", "1"]
    assert registry.find("m") is second
    second.ready = first.ready = False
    assert registry.find("m") is tenth
    assert registry.find("m", "1") is first


def test_a_generation_takes_the_place_of_another():
    old, other, new = Model("m", "1"), Model("n", "1"), Model("m", "1")
    registry = ModelRegistry([old, other])
    registry.put(new)
    assert registry.find("m") is registry.find("m", "1") is new
    assert list(registry) == [new, other]


def test_what_is_removed_is_unknown():
    registry = ModelRegistry([Model("m", "1"), Model("m", "2")])
    registry.remove("m", "2")
    with pytest.raises(UnknownModel, match="m: unknown version '2'; known versions: 1"):
        registry.find("m", "2")
    registry.remove("m", "1")
    registry.remove("m", "1")
    with pytest.raises(UnknownModel, match="unknown model 'm'; known models: none"):
        registry.find("m")


def test_it_may_change_while_it_is_iterated():
    registry = ModelRegistry([Model("m", "1"), Model("n", "1")])
    for model in registry:
        registry.remove(model.name, model.version)
    assert not list(registry)
