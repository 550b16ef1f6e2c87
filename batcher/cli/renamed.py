"""Options that were renamed: an old one is answered with the new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Mapping


class RenamedOptions(TyperCommand):
    """A command that answers an old name of an option with its new name, and exit code 2."""

    renamed: ClassVar[Mapping[str, str]] = {}
    """Old name -> new name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as ever, unless an old name is given."""
        for arg in args:
            old = arg.partition("=")[0]
            if old in self.renamed:
                ctx.fail(f"No such option: {old}. It is now {self.renamed[old]}.")
        return super().parse_args(ctx, args)


class SimulateCommand(RenamedOptions):
    """`batcher simulate`."""

    renamed = {  # noqa: RUF012 - typed in the base class
        "--handover": "--batch-gap",
        "--lateness": "--timer-delay",
        "--reply": "--reply-time",
        "--slow-spell": "--slowdown",
    }
