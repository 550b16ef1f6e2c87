"""Which lines of a file the demo takes, and which files it refuses."""

import document
import pytest


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "notes.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_distinct_lines_with_something_to_read_in_their_order(written):
    path = written("\ufeff  second \n\n---\nfirst\r\nsecond\n...\n7\n")
    assert document.read(path, 10).lines == ["second", "first", "7"]


def test_lines_beyond_the_limit_are_counted(written):
    found = document.read(written("a\nb\nc\nd\n"), 3)
    assert (found.lines, found.left_out) == (["a", "b", "c"], 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no line with a letter or a digit"),
        (b"\n --- \n", "no line with a letter or a digit"),
        (b"fine\n\xff\xfe", r"not UTF-8 text \(byte 5\)"),
        (b"PK\0\0", "zero bytes"),
    ],
)
def test_what_is_not_text_is_refused(written, content, said):
    with pytest.raises(document.DocumentError, match=said):
        document.read(written(content), 10)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(document.DocumentError, match="No such file"):
        document.read(tmp_path / "missing.txt", 10)
    with pytest.raises(document.DocumentError, match="Is a directory"):
        document.read(tmp_path, 10)


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(document.DocumentError, match="larger than 64 MiB"):
        document.read(path, 10)


def test_the_default_document_is_large_and_has_its_own_queries():
    found = document.read(document.DEFAULT, 10_000)
    assert len(found.lines) == 320
    assert found.queries() == list(document.DEFAULT_QUERIES)


def test_queries_of_another_document_are_its_own_lines(written):
    lines = [f"this is sentence number {n}" for n in range(40)]
    found = document.read(written("\n".join(["short", *lines])), 100)
    assert found.queries() == [lines[5], lines[15], lines[25], lines[35]]


def test_a_document_of_one_word_has_that_query(written):
    assert document.read(written("word"), 100).queries() == ["word"]
