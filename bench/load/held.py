"""What a server process has: children, file descriptors, threads, memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


def children(pid: int, model: str = "") -> list[int]:
    """The child processes with a model, or with any, the oldest first."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if int(stat[1]) != pid or "batcher.executors.isolated" not in command:
            continue
        if command.split("\0")[-2].startswith(f"{model}/" if model else ""):
            found.append((int(stat[19]), int(folder.name)))
    return [each for _, each in sorted(found)]


@dataclass(frozen=True, slots=True)
class Held:
    """What the server has: children, file descriptors, threads, bytes of memory."""

    children: int
    files: int
    threads: int
    memory: int

    @classmethod
    def by(cls, pid: int) -> Held:
        """What a process has now."""
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in status if ":" in line)
        return cls(
            len(children(pid)),
            len(list(Path(f"/proc/{pid}/fd").iterdir())),
            int(values["Threads"]),
            int(values["VmRSS"].split()[0]) * 1024,
        )
