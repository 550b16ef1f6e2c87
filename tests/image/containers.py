"""Processes in the root of an image, as a strict container runtime runs them.

`runc` gives them the image's user without a right more, a root file system that cannot be written to,
and no /tmp. The network is that of this machine, so that tests reach them.
"""

import contextlib
import json
import select
import subprocess
import tempfile
from pathlib import Path

import build_image

WAIT_S = 120
"""How long a container may take to start, and to end."""

NAME = "tested"

NO_SHELL = [f"/usr/bin/{name}" for name in ("bash", "dash")]


def unprivileged(image, root, arguments, mounts):
    """The OCI runtime's configuration: what to run, as whom, and what it sees."""
    configured = build_image.configuration(image)
    user, group = map(int, configured["User"].split(":"))
    kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
    device = {"type": "tmpfs", "source": "tmpfs"}
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": user, "gid": group},
            "args": [*configured["Entrypoint"], *(arguments or configured["Cmd"])],
            "env": configured["Env"],
            "cwd": configured["WorkingDir"],
            "capabilities": {kind: [] for kind in kinds},
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "options": ["nosuid", "mode=755"], **device},
            {"destination": "/dev/shm", "options": ["nosuid", "nodev", "mode=1777"], **device},
            *(
                {
                    "destination": inside,
                    "type": "bind",
                    "source": str(outside),
                    "options": ["bind", "ro"],
                }
                for inside, outside in mounts.items()
            ),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")],
            "maskedPaths": NO_SHELL,
        },
    }


class Container:
    """`ENTRYPOINT` and `CMD` of an image, or other arguments, as a context manager.

    `mounts` maps paths inside to files and folders of this machine; none can be written to. Leaving
    ends it.
    """

    def __init__(self, image, *, arguments=(), mounts=None):
        self.image = image
        self.arguments = list(arguments)
        self.mounts = mounts or {}
        self.stack = contextlib.ExitStack()
        self.process = None
        self.printed = ""

    def __enter__(self):
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        root = self.stack.enter_context(build_image.mounted(self.image))
        settings = unprivileged(self.image, root, self.arguments, self.mounts)
        (folder / "config.json").write_text(json.dumps(settings))
        self.runtime = [build_image.runtime(), "--root", str(folder / "state")]
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *self.runtime,
                    "run",
                    "--bundle",
                    str(folder),
                    NAME,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        return self

    def __exit__(self, *_):
        with self.stack:
            self.process.stdout.close()
            if self.process.poll() is None:
                self.process.terminate()
            try:
                self.process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
            finally:
                self.printed = self.output()

    def output(self):
        """What it has logged so far; all of it once it has been left."""
        return self.printed or self.log.read_text()

    def answer(self):
        """What it prints until it ends by itself, and its exit code."""
        printed, _ = self.process.communicate(timeout=WAIT_S)
        return printed.decode(), self.process.returncode

    def execute(self, *command):
        """The exit code of a command beside the server."""
        return subprocess.run(
            [*self.runtime, "exec", NAME, *command],
            check=False,
            capture_output=True,
            timeout=WAIT_S,
        ).returncode

    def stop(self):
        """Its exit code after SIGTERM, which `runc` passes on."""
        self.process.terminate()
        return self.process.wait(WAIT_S)

    def wait_until_ready(self):
        """Return when the server says so; fails with its log if it ends before, or takes too long."""
        readable, _, _ = select.select([self.process.stdout], [], [], WAIT_S)
        line = self.process.stdout.readline().decode() if readable else ""
        assert line.startswith("batcher is ready"), f"{line}\n{self.output()}"
