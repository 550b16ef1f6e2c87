"""Files that load calls bring along, in private folders. Blocks: call it on a thread."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from batcher.errors import InvalidRequest, encodable
from batcher.lifecycle.repository.files import MAX_DEPTH, MAX_FILES, VERSION

_LONGEST_NAME: Final = 255
"""Bytes of a part of a path, on the file systems in use."""


class Uploads:
    """Keeps the files of load calls until their models are not served any more."""

    def __init__(self) -> None:
        self._root: Path | None = None

    def write(self, name: str, files: Mapping[str, bytes]) -> Path:
        """Write files into a new folder of the model and return it; only this user can read it.

        A key is `<version>/<name>`. Raises `InvalidRequest` for one that is not, and OSError.
        """
        paths = {_checked(name, path): contents for path, contents in files.items()}
        if len(files) > MAX_FILES:
            raise InvalidRequest(f"{name}: got {len(files)} files; allowed: at most {MAX_FILES}")
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix="batcher-models-"))
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._root))
        try:
            for path, contents in paths.items():
                file = folder / path
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("xb") as written:
                    written.write(contents)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            self.remove(folder)
            raise InvalidRequest(
                f"{name}: one file of the call is the folder of another; allowed: separate paths"
            ) from None
        except BaseException:
            self.remove(folder)
            raise
        return folder

    def remove(self, folder: Path) -> None:
        """Remove a folder that `write` returned. What cannot be removed is left."""
        shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove all of them."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)


def _checked(model: str, text: str) -> PurePosixPath:
    """The path of a file below the model's folder. Raises `InvalidRequest` for any other place."""
    parts = text.split("/")
    good = (
        2 <= len(parts) <= MAX_DEPTH
        and VERSION.fullmatch(parts[0]) is not None
        and all(_is_name(part) for part in parts[1:])
    )
    if not good:
        got = encodable(text)[:100]
        raise InvalidRequest(
            f"{model}: got the file {got!r}; allowed: <version>/<name>, such as file:1/model.onnx"
        )
    return PurePosixPath(*parts)


def _is_name(part: str) -> bool:
    return (
        part not in {"", ".", ".."}
        and "\0" not in part
        and encodable(part) == part
        and len(part.encode()) <= _LONGEST_NAME
    )
