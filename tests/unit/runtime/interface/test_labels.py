"""Files with the names of classes."""

import pytest

from batcher.errors import ModelLoadError
from batcher.runtime.interface import labels
from batcher.runtime.interface.labels import Labels, read_labels


def test_each_line_is_a_name(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\n\ndog, small\r\nÄffin")

    assert read_labels("m", tmp_path / "labels.txt") == Labels(
        "labels.txt", (b"cat", b"", b"dog, small", "Äffin".encode())
    )


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        ModelLoadError, match=f"model 'm': labels: {tmp_path}/no cannot be read: No such file"
    ):
        read_labels("m", tmp_path / "no")


def test_a_file_must_be_text(tmp_path):
    (tmp_path / "labels").write_bytes(b"\xff")

    with pytest.raises(ModelLoadError, match="labels is not UTF-8"):
        read_labels("m", tmp_path / "labels")


def test_a_file_must_not_be_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "MAX_LABELS_BYTES", 3)
    (tmp_path / "labels").write_text("abcd")

    with pytest.raises(ModelLoadError, match="labels is too large; allowed: at most 3 bytes"):
        read_labels("m", tmp_path / "labels")
