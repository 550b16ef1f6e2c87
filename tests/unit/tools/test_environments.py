"""Environments are made once for what they should hold. Nothing is installed here."""

import threading

import environments
import pytest


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """What was installed, in order; environments are folders of `tmp_path`."""
    calls = []

    def install(place, wanted):
        calls.append(wanted)
        place.mkdir(exist_ok=True)

    monkeypatch.setenv(environments.FOLDER, str(tmp_path))
    monkeypatch.setattr(environments, "install", install)
    return calls


def test_an_environment_is_made_once(installed, tmp_path):
    first = environments.interpreter("mlserver")
    assert environments.interpreter("mlserver") == first
    assert first == tmp_path / ".venv-mlserver" / "bin" / "python"
    assert installed == [list(environments.REQUIREMENTS["mlserver"])]


def test_it_is_made_again_for_other_requirements(installed, monkeypatch):
    environments.interpreter("mlserver")
    monkeypatch.setitem(environments.REQUIREMENTS, "mlserver", ("mlserver==9",))
    environments.interpreter("mlserver")
    assert installed[1:] == [["mlserver==9"]]


def test_two_at_a_time_make_one(installed):
    threads = [
        threading.Thread(target=environments.interpreter, args=["mlserver"]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(installed) == 1


def test_one_that_failed_is_made_again(installed, monkeypatch):
    def fail(place, wanted):
        raise environments.CannotMakeError("no network")

    with monkeypatch.context() as broken:
        broken.setattr(environments, "install", fail)
        with pytest.raises(environments.CannotMakeError, match="no network"):
            environments.interpreter("mlserver")
    environments.interpreter("mlserver")
    assert len(installed) == 1


def test_the_client_stands_beside_what_this_project_needs():
    assert any(each.startswith("grpcio") for each in environments.requirements("tritonclient"))


def test_the_command_prints_interpreters_and_reasons(installed, capsys, tmp_path):
    assert environments.main(["mlserver", "nothing"]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path}/.venv-mlserver/bin/python\n"
    assert "unknown environment 'nothing'" in printed.err


def test_a_folder_that_cannot_be_written_is_a_reason(monkeypatch):
    monkeypatch.setenv(environments.FOLDER, "/proc/none")
    with pytest.raises(environments.CannotMakeError, match="cannot write"):
        environments.interpreter("mlserver")
