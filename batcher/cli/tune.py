"""`batcher tune`: show or change settings of a running server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batcher.cli.exits import reported

if TYPE_CHECKING:
    from collections.abc import Iterable

    import grpc

EPILOG = """
Exit codes: 0 when it was done; 1 when the server could not be reached or could not apply the change; 2
when the change or an option is wrong (nothing has changed then).

Examples:

- `batcher tune unix:/run/batcher/admin.sock` shows the settings in force.

- `batcher tune localhost:8003 --model minilm --set batching.target_p99=40ms --set
  queue.max_requests=512` changes both, or none.

- `batcher tune localhost:8003 --model minilm --set 'batching={policy: fixed, max_queue_delay: 2ms}'`
  replaces a whole section.

- `batcher tune localhost:8003 --reload` makes the server read its configuration file again.
"""

_TLS = "TLS"


def tune(
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS",
            show_default=False,
            help="An admin listener of the server (`server.admin`): `host:port` or `unix:/path`.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The model to show or change. [default: show all]",
            show_default=False,
        ),
    ] = "",
    version: Annotated[
        str,
        typer.Option(
            metavar="N", help="The version of that model, where it has several.", show_default=False
        ),
    ] = "",
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            show_default=False,
            help="A key below the model and its new value, as in the configuration file, such as"
            " `batching.target_p99=40ms`. Repeatable.",
        ),
    ] = None,
    *,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Show what would change, without changing it.")
    ] = False,
    reload: Annotated[
        bool,
        typer.Option(
            "--reload",
            help="Make the server read its configuration file again and apply it as a whole.",
        ),
    ] = False,
    timeout: Annotated[
        str, typer.Option(metavar="TIME", help="How long to wait for an answer, such as `10s`.")
    ] = "10s",
    ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_TLS,
            help="Certificates of the authorities that signed the server's certificate (PEM). Turns TLS on.",
        ),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_TLS,
            help="The client certificate, for mutual TLS (PEM).",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel=_TLS, help="The private key of `--cert` (PEM)."
        ),
    ] = None,
) -> None:
    """Show or change settings of a running server, without a restart.

    Keys under `batching`, `budget`, `queue`, `padding` and `outputs` of a model can change. All values of one call
    take effect together, between two batches, or none does. They last until the configuration file
    changes or the server ends.
    """
    with reported():
        import grpc

        from batcher.cli.simulation_options import read_duration
        from batcher.clock import SECOND
        from batcher.errors import InputError
        from batcher.protocol import ADMIN, Stub

        wanted = _read_changes(changes or [])
        if reload and (wanted or validate_only or model or version):
            raise InputError(
                "--reload applies the whole file; leave out --model, --version, --set and --validate-only"
            )
        if wanted and not model:
            raise InputError("--set needs --model NAME")
        if validate_only and not wanted:
            raise InputError("--validate-only needs --set PATH=VALUE")
        timeout_s = (read_duration("--timeout", timeout) or 0) / SECOND
        with _channel(address, ca, cert, key) as channel:
            stub = Stub(channel, ADMIN)
            try:
                if wanted:
                    _update(stub, model, version, wanted, timeout_s, validate_only=validate_only)
                elif reload:
                    _reload(stub, timeout_s)
                else:
                    _show(stub, model, version, timeout_s)
            except grpc.RpcError as error:
                raise _explained(error, address) from None


def _read_changes(texts: Iterable[str]) -> dict[str, str]:
    from batcher.errors import InputError

    changes: dict[str, str] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        path = path.strip()
        if not equals or not path:
            raise InputError(
                f"--set: got {text!r}; allowed: PATH=VALUE, as batching.target_p99=40ms"
            )
        if path in changes:
            raise InputError(f"--set: got {path} a second time; allowed: once")
        changes[path] = value
    return changes


def _channel(address: str, ca: Path | None, cert: Path | None, key: Path | None) -> grpc.Channel:
    import grpc

    from batcher.config import parse_address
    from batcher.errors import InputError

    try:
        parse_address(address)
    except ValueError as error:
        raise InputError(f"ADDRESS: got {address!r}; allowed: {error}") from None
    if (cert is None) != (key is None):
        raise InputError("--cert and --key go together; give both or neither")
    if cert is not None and ca is None:
        raise InputError("--cert needs --ca FILE, with the certificates of the authorities")
    if ca is None:
        return grpc.insecure_channel(address)
    return grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(
            _read_file("--ca", ca),
            None if key is None else _read_file("--key", key),
            None if cert is None else _read_file("--cert", cert),
        ),
    )


def _read_file(option: str, path: Path) -> bytes:
    from batcher.errors import InputError

    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{option}: {path}: {error.strerror}; allowed: a readable file") from None


def _show(stub: Any, model: str, version: str, timeout_s: float) -> None:
    from batcher.protocol import admin

    answer = stub.GetSettings(
        admin.GetSettingsRequest(model=model, version=version), timeout=timeout_s
    )
    typer.echo(f"# generation {answer.generation}")
    for each in answer.models:
        typer.echo(f"# {each.model} version {each.version}\n{each.settings}", nl=False)


def _update(
    stub: Any,
    model: str,
    version: str,
    changes: dict[str, str],
    timeout_s: float,
    *,
    validate_only: bool,
) -> None:
    from batcher.protocol import admin

    answer = stub.UpdateSettings(
        admin.UpdateSettingsRequest(
            model=model, version=version, changes=changes, validate_only=validate_only
        ),
        timeout=timeout_s,
    )
    _print_changes(answer.changes)
    if validate_only:
        typer.echo(f"valid; nothing was changed, generation {answer.generation} stays in force")
    else:
        typer.echo(f"generation {answer.generation}")


def _reload(stub: Any, timeout_s: float) -> None:
    from batcher.protocol import admin

    answer = stub.Reload(admin.ReloadRequest(), timeout=timeout_s)
    _print_changes(answer.changes)
    typer.echo(f"generation {answer.generation}")


def _print_changes(changes: Iterable[Any]) -> None:
    lines = [f"{c.model}/{c.version} {c.path}: {c.old} -> {c.new}" for c in changes]
    typer.echo("\n".join(lines or ["no value differs: nothing to change"]))


def _explained(error: Any, address: str) -> Exception:
    import grpc

    from batcher.errors import BatcherError, InputError

    code, text = error.code(), error.details() or ""
    if code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}:
        return InputError(f"refused, nothing has changed: {text}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return BatcherError(
            f"{address} is not an admin listener of batcher; give an address of server.admin"
        )
    hint = ""
    if code is grpc.StatusCode.UNAVAILABLE:
        hint = "; is the server running, and does its server.admin list this address?"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        hint = "; a larger --timeout waits longer"
    return BatcherError(f"{address}: {code.name}: {text}{hint}")
