"""What lies in a directory: names, stamps, and nothing of the contents. Blocks: call it on a thread."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

MAX_MODELS: Final = 10_000
"""Folders of a model repository that are scanned; a scan of this many takes about a second. Those
beyond, in the order of their names, are not served."""

MAX_FILES: Final = 10_000
"""Files of one version. A version with more is not served, because each scan costs a system call a file."""

MAX_DEPTH: Final = 16
"""Folders below each other in a version. Links can make a ring of folders, which ends here."""


VERSION: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
"""The name of a folder that is a version."""


class FileStamp(NamedTuple):
    """Equal while a file is the same; `changed_ns` is when its contents changed."""

    path: str
    """Below the folder that was scanned."""
    device: int = 0
    inode: int = 0
    size: int = 0
    changed_ns: int = 0

    def below(self, folder: str) -> FileStamp:
        """The same file as seen from above `folder`."""
        return self._replace(path=f"{folder}/{self.path}")


class TooManyFilesError(Exception):
    """A version has more than `MAX_FILES` files, or folders more than `MAX_DEPTH` below each other."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The direct children of a folder, links followed: plain files with their stamps, and folders."""

    files: tuple[FileStamp, ...]
    folders: tuple[str, ...]

    def stamp(self, name: str) -> FileStamp | None:
        """The stamp of the file with that name; None if there is none."""
        return next((stamp for stamp in self.files if stamp.path == name), None)


def list_folder(path: Path) -> Folder:
    """List a folder, sorted by name. Hidden names and links that lead nowhere are left out.

    Raises OSError if the folder cannot be read.
    """
    files: list[FileStamp] = []
    folders: list[str] = []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file():
                    files.append(_stamp(entry.name, entry.stat()))
            except OSError as error:
                # Removed meanwhile, or a link that leads nowhere. What cannot be scanned may be a
                # folder: listing it raises why, and it is not taken for missing.
                if error.errno not in {errno.ENOENT, errno.ELOOP}:
                    folders.append(entry.name)
    return Folder(tuple(sorted(files)), tuple(sorted(folders)))


def stamp_of(path: Path) -> FileStamp | None:
    """The stamp of a file, links followed; None if there is none."""
    try:
        return _stamp(path.name, path.stat())
    except OSError:
        return None


def stamps_below(path: Path) -> tuple[FileStamp, ...]:
    """The stamps of all files below a folder, links followed.

    Raises OSError if a folder cannot be read, and `TooManyFilesError`.
    """
    found: list[FileStamp] = []
    for stamp in _walk(path, "", MAX_DEPTH):
        if len(found) == MAX_FILES:
            raise TooManyFilesError(f"more than {MAX_FILES} files")
        found.append(stamp)
    return tuple(found)


def _walk(path: Path, prefix: str, depth: int) -> Iterator[FileStamp]:
    if not depth:
        raise TooManyFilesError(f"more than {MAX_DEPTH} folders below each other")
    folder = list_folder(path)
    for file in folder.files:
        yield file.below(prefix) if prefix else file
    for name in folder.folders:
        yield from _walk(path / name, f"{prefix}/{name}" if prefix else name, depth - 1)


def _stamp(name: str, status: os.stat_result) -> FileStamp:
    return FileStamp(name, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
