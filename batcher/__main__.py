"""The entry point of the `batcher` command and of `python -m batcher`."""

from batcher.cli.main import app


def main() -> None:
    """Run the command line; ends the process with the command's exit code."""
    app(prog_name="batcher")


if __name__ == "__main__":
    main()
