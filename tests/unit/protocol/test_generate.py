"""The generator: up to date, and loud when it is not."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("grpc_tools", reason="the generator needs the lint group")

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location(
        "generate_protocol", ROOT / "tools" / "generate_protocol.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_fresh_copy_is_up_to_date_until_it_is_changed(generator, tmp_path, capsys):
    assert generator.main([], target=tmp_path) == 0
    assert generator.main(["--check"], target=tmp_path) == 0

    (tmp_path / "_generated" / "inference_service.py").write_text("changed\n", encoding="utf-8")
    (tmp_path / "_generated" / "stale.py").write_text("old\n", encoding="utf-8")

    assert generator.main(["--check"], target=tmp_path) == 1
    told = capsys.readouterr().err
    assert "-changed" in told
    assert "stale.py" in told
    assert generator.main([], target=tmp_path) == 0
    assert not (tmp_path / "_generated" / "stale.py").exists()


def test_nothing_generated_depends_on_a_version():
    protocol = ROOT / "batcher" / "protocol"
    for path in (protocol / "_generated_descriptors.py", *protocol.glob("_generated/*.py")):
        text = path.read_text(encoding="utf-8")
        assert "runtime_version" not in text
        assert "GRPC_GENERATED_VERSION" not in text
