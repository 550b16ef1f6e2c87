"""What `tools/fetch_kustomize.py` and `tools/fetch_custom_schemas.py` make of what they find; nothing is fetched."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

import fetch_custom_schemas
import fetch_kustomize

SOURCE = """
class Limit(RootModel[int]):
    root: int


class Rule(BaseModel):
    class Builder(BaseModelBuilder):
        def kind(self, value: str, /) -> Self:
            return self._set("kind", value)

    kind: Annotated[Literal["a", "b"] | None, Field(alias="kindOfRule")] = None
    seconds: int
    limit: Limit | None = None


class Fleet(BaseModel):
    rules: list[Rule] | None = None
    labels: Annotated[dict[str, str], Field(min_length=1)]
    metadata: ObjectMeta | None = None
"""


def test_classes_become_schemas():
    anything = {"x-kubernetes-preserve-unknown-fields": True}
    assert fetch_custom_schemas.Classes(SOURCE).schema("Fleet") == {
        "type": "object",
        "properties": {
            "rules": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "kindOfRule": {"enum": ["a", "b"]},
                        "seconds": {"type": "integer"},
                        "limit": anything,
                    },
                    "required": ["seconds"],
                },
            },
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "metadata": anything,
        },
        "required": ["labels"],
    }


@pytest.mark.parametrize(
    ("told", "command"),
    [
        ("v5.6.0\n", True),
        ("{Version:kustomize/v4.5.7 GitCommit:56d82a8}\n", False),
        ("Client Version: v1.32.4\nKustomize Version: v5.5.0\n", True),
        ("Client Version: v1.24.0\nKustomize Version: v4.5.4\n", False),
        ("(devel)\n", False),
    ],
)
def test_an_old_kustomize_is_not_used(told, command, monkeypatch):
    monkeypatch.setattr(fetch_kustomize.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(fetch_kustomize, "run", lambda *_: told)
    assert (fetch_kustomize.installed() is not None) == command
    assert (fetch_kustomize.built_in() is not None) == command


def test_a_kubectl_serves_where_nothing_can_be_downloaded(monkeypatch, tmp_path):
    def cannot(_):
        raise fetch_kustomize.CannotFetchError("offline")

    monkeypatch.setattr(fetch_kustomize, "FOLDER", tmp_path)
    monkeypatch.setattr(fetch_kustomize, "download", cannot)
    monkeypatch.setattr(fetch_kustomize, "installed", lambda: None)
    monkeypatch.setattr(fetch_kustomize, "built_in", lambda: ["kubectl", "kustomize"])
    assert fetch_kustomize.command() == ["kubectl", "kustomize"]
    monkeypatch.setattr(fetch_kustomize, "built_in", lambda: None)
    with pytest.raises(fetch_kustomize.CannotFetchError, match="offline"):
        fetch_kustomize.command()
