"""How long source files may be."""

from statistics import median

LONGEST = 500
"""Lines of a Python file."""

CORE_MEDIAN = 160
"""The median of the lines of files in `batcher/core` is below this."""


def lengths(repository, paths):
    return {path: len((repository / path).read_bytes().splitlines()) for path in paths}


def test_no_python_file_is_too_long(repository, tracked_files):
    counted = lengths(repository, [path for path in tracked_files if path.endswith(".py")])
    assert not {path: count for path, count in counted.items() if count > LONGEST}


def test_files_of_the_core_are_short(repository, tracked_files):
    core = [p for p in tracked_files if p.startswith("batcher/core/") and p.endswith(".py")]
    assert median(lengths(repository, core).values()) < CORE_MEDIAN
