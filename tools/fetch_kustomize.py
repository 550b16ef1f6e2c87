"""Print the path of a `kustomize` of version 5 or later, downloaded into `.cache/kustomize/` if there is none.

    python tools/fetch_kustomize.py

Looks for `kustomize` on the PATH, then in `.cache/kustomize/`, then downloads Debian's package of it and
unpacks the program, which is static apart from the C library. apt-get downloads it, from the release named
`SUITE` and with lists of its own, so it verifies Debian's signature and changes nothing of the system; no
root is needed. Last it looks for a `kubectl` on the PATH, which has kustomize built in.

Prints the program, or the words of the command for `kubectl`, and exits with 0; or prints the reason on
standard error and exits with 1.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".cache" / "kustomize"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITE = "trixie"
"""The first release of Debian with a package of kustomize. It runs on the C library of bookworm, too."""
OLDEST = 5
"""The oldest major version: `labels` with `includeTemplates` and JSON patches that move need it."""


class CannotFetchError(Exception):
    """The program cannot be downloaded; the message says why."""


def run(command: list[str], folder: Path) -> str:
    """The output of a command. Raises `CannotFetchError` with the last lines of what it said."""
    try:
        done = subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=300
        )
    except FileNotFoundError as error:
        raise CannotFetchError(f"needs the program {command[0]!r}") from error
    except subprocess.TimeoutExpired as error:
        raise CannotFetchError(f"{' '.join(command)}: not finished after 300 s") from error
    except subprocess.CalledProcessError as error:
        words = (error.stderr or error.stdout).strip().splitlines()[-3:]
        raise CannotFetchError(f"{' '.join(command)}: {' / '.join(words)}") from error
    return done.stdout


def download(program: Path) -> None:
    """Put Debian's kustomize at `program`."""
    if not KEYRING.exists():
        raise CannotFetchError(f"needs Debian's keys, {KEYRING}")
    FOLDER.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as name:
        scratch = Path(name)
        for folder in ("lists/partial", "cache/archives/partial", "unpacked"):
            (scratch / folder).mkdir(parents=True)
        sources = scratch / "sources.list"
        sources.write_text(f"deb [signed-by={KEYRING}] http://deb.debian.org/debian {SUITE} main\n")
        options = {
            "Dir::Etc::SourceList": sources,
            "Dir::Etc::SourceParts": "-",
            "Dir::State::Lists": scratch / "lists",
            "Dir::State::Status": "/dev/null",
            "Dir::Cache": scratch / "cache",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
        run([*apt, "update"], scratch)
        run([*apt, "download", "kustomize"], scratch)
        run(["dpkg-deb", "-x", str(next(scratch.glob("*.deb"))), "unpacked"], scratch)
        fetched = scratch / "unpacked" / "usr" / "bin" / "kustomize"
        run([str(fetched), "version"], scratch)
        program.parent.mkdir(exist_ok=True)
        # Renamed when complete, so that an interrupted call leaves no incomplete program.
        fetched.rename(program)


def installed() -> list[str] | None:
    """The words that run a kustomize on the PATH which is new enough, or None."""
    program = shutil.which("kustomize")
    if program and (version := _major([program, "version"])) and version >= OLDEST:
        return [program, "build"]
    return None


def built_in() -> list[str] | None:
    """The words that run the kustomize of a kubectl on the PATH, if it is new enough."""
    program = shutil.which("kubectl")
    if program and (version := _major([program, "version", "--client"])) and version >= OLDEST:
        return [program, "kustomize"]
    return None


def _major(command: list[str]) -> int | None:
    """The major version that a program tells, of kustomize where it names several."""
    try:
        told = run(command, Path("/"))
    except CannotFetchError:
        return None
    found = re.search(r"Kustomize Version: v(\d+)", told) or re.search(r"v?(\d+)\.\d+", told)
    return int(found[1]) if found else None


def command() -> list[str]:
    """The words in front of a folder that render it. Raises `CannotFetchError`."""
    if found := installed():
        return found
    program = FOLDER / "kustomize"
    try:
        if not program.exists():
            download(program)
    except CannotFetchError:
        if found := built_in():
            return found
        raise
    return [str(program), "build"]


def main() -> int:
    """Fetch and report."""
    try:
        print(shlex.join(command()))
    except CannotFetchError as error:
        print(f"error: kustomize cannot be downloaded: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
