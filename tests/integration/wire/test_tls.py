"""TLS and mutual TLS on the TCP listeners; Unix sockets are not encrypted."""

import asyncio
import shutil
import ssl
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from grpc import aio

from batcher.cli.main import app
from batcher.errors import StartupError

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def refusal(stub, request):
    """The error of a call that the server must not answer."""
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelInfer(request)
    assert caught.value.code() is UNAVAILABLE
    return caught.value


@pytest.fixture
async def with_tls(start, hello, tls_files):
    """A function that starts a server whose TCP listeners speak TLS, mutual or not."""

    async def make(*, mutual=False, grpc=("127.0.0.1:0",), admin=()):
        tls = dict(tls_files) if mutual else {k: tls_files[k] for k in ("cert", "key")}
        return await start(hello(server={"tls": tls, "grpc": list(grpc), "admin": list(admin)}))

    return make


async def test_a_client_that_trusts_the_authority_is_served(with_tls, dial, authority, request_of):
    application = await with_tls()
    credentials = grpc.ssl_channel_credentials(authority.cert)
    stub = await dial(application.grpc.addresses[0], credentials=credentials)
    assert (await stub.ModelInfer(request_of())).model_name == "hello"


async def test_a_plain_client_is_not_served(with_tls, dial, authority, request_of):
    application = await with_tls()
    plain = await dial(application.grpc.addresses[0])
    await refusal(plain, request_of())

    credentials = grpc.ssl_channel_credentials(authority.cert)
    stub = await dial(application.grpc.addresses[0], credentials=credentials)
    assert (await stub.ModelInfer(request_of())).model_name == "hello"


async def test_a_client_that_trusts_another_authority_refuses(with_tls, dial, stranger, request_of):
    application = await with_tls()
    credentials = grpc.ssl_channel_credentials(stranger.ca.cert)
    stub = await dial(application.grpc.addresses[0], credentials=credentials)
    error = await refusal(stub, request_of())
    assert "certificate" in error.details().lower()


async def test_mutual_tls_serves_only_clients_of_the_authority(
    with_tls, dial, authority, client, stranger, request_of
):
    application = await with_tls(mutual=True)
    address = application.grpc.addresses[0]

    def credentials(client=None):
        return grpc.ssl_channel_credentials(
            authority.cert, client.key if client else None, client.cert if client else None
        )

    known = await dial(address, credentials=credentials(client))
    anonymous = await dial(address, credentials=credentials())
    strange = await dial(address, credentials=credentials(stranger.client))

    await refusal(anonymous, request_of())
    await refusal(strange, request_of())
    assert (await known.ModelInfer(request_of())).model_name == "hello"


async def test_unix_sockets_are_not_encrypted_with_tls_on_others(
    with_tls, dial, authority, request_of, tmp_path
):
    data, admin = f"unix:{tmp_path}/data.sock", f"unix:{tmp_path}/admin.sock"
    application = await with_tls(grpc=["127.0.0.1:0", data, "127.0.0.1:0"], admin=[admin])
    first, _, second = application.grpc.addresses
    assert application.grpc.addresses[1] == data
    credentials = grpc.ssl_channel_credentials(authority.cert)

    for stub in (
        await dial(first, credentials=credentials),
        await dial(second, credentials=credentials),
        await dial(data),
        await dial(admin),
    ):
        assert (await stub.ModelInfer(request_of())).model_name == "hello"


async def test_the_admin_listener_speaks_tls_too(with_tls, dial, authority, request_of):
    application = await with_tls(admin=["127.0.0.1:0"])
    address = application.grpc.admin_addresses[0]
    await refusal(await dial(address), request_of())
    stub = await dial(address, credentials=grpc.ssl_channel_credentials(authority.cert))
    assert (await stub.ModelInfer(request_of())).model_name == "hello"


async def test_settings_are_tuned_over_mutual_tls(with_tls, authority, client, tmp_path, capsys):
    application = await with_tls(mutual=True, admin=("127.0.0.1:0",))
    for name, text in (("ca", authority.cert), ("cert", client.cert), ("key", client.key)):
        (tmp_path / name).write_bytes(text)
    address = application.grpc.admin_addresses[0]
    arguments = ["tune", address, "--model", "hello", "--set", "queue.max_rows=7"]
    for name in ("ca", "cert", "key"):
        arguments += [f"--{name}", str(tmp_path / name)]

    def tune():
        with pytest.raises(SystemExit) as ended:
            app(arguments, prog_name="batcher")
        return ended.value.code

    assert await asyncio.to_thread(tune) == 0
    assert "queue.max_rows: null -> 7" in capsys.readouterr().out


@pytest.mark.slow
async def test_a_server_in_its_own_process_speaks_tls(
    serve, hello, tls_files, dial, authority, request_of
):
    """Its event loop is another one than that of the tests."""
    server = serve(hello(server={"tls": {key: tls_files[key] for key in ("cert", "key")}}))
    credentials = grpc.ssl_channel_credentials(authority.cert)
    stub = await dial(server.grpc, credentials=credentials)
    for rows in (1, 1024):
        assert (await stub.ModelInfer(request_of(rows=rows))).model_name == "hello"


class TestRenewal:
    @pytest.fixture
    async def renewable(self, start, hello, tls_files, tmp_path):
        """A server and the files that it has its certificate from: `application, files`."""
        files = {}
        for key in ("cert", "key"):
            files[key] = Path(shutil.copy(tls_files[key], tmp_path / key))
        tls = {key: str(path) for key, path in files.items()}
        listeners = ["127.0.0.1:0", "127.0.0.1:0"]
        return await start(
            hello(server={"tls": tls, "grpc": listeners, "config_poll_interval": 0})
        ), files

    @pytest.fixture
    def shown(self):
        """A function to the certificates that a server shows on its listeners."""

        async def shown(application):
            found = set()
            for address in application.grpc.addresses:
                host, port = address.split(":")
                get = ssl.get_server_certificate
                found.add(await asyncio.to_thread(get, (host, int(port)), timeout=10))
            return {each.strip().encode() for each in found}

        return shown

    async def test_renewed_files_are_read_again(
        self, renewable, renewed, shown, authority, dial, request_of, caplog
    ):
        application, files = renewable
        credentials = grpc.ssl_channel_credentials(authority.cert)
        stub = await dial(application.grpc.addresses[0], credentials=credentials)
        await stub.ModelInfer(request_of())
        assert await shown(application) == {files["cert"].read_bytes().strip()}

        files["cert"].write_bytes(renewed.cert)
        with caplog.at_level("INFO"):
            application.grpc.certificates.refresh()  # one of two: as if it looked too early
        assert "the old ones still are" in caplog.text
        assert await shown(application) != {renewed.cert.strip()}

        files["key"].write_bytes(renewed.key)
        with caplog.at_level("INFO"):
            application.grpc.certificates.refresh()
        assert "are used from now on" in caplog.text
        assert await shown(application) == {renewed.cert.strip()}
        await stub.ModelInfer(request_of())  # open connections stay open
        other = await dial(application.grpc.addresses[1], credentials=credentials)
        assert (await other.ModelInfer(request_of())).model_name == "hello"

    async def test_files_that_stay_the_same_are_not_read(self, renewable, caplog):
        application, files = renewable
        with caplog.at_level("INFO"):
            application.grpc.certificates.refresh()
            files["cert"].unlink()
            application.grpc.certificates.refresh()
            application.grpc.certificates.refresh()
        assert caplog.text.count("the old ones still are") == 1

    async def test_they_are_polled(self, start, hello, tls_files, eventually):
        tls = {key: tls_files[key] for key in ("cert", "key")}
        application = await start(hello(server={"tls": tls, "config_poll_interval": "100ms"}))
        looks = []
        application.grpc.certificates.refresh = lambda: looks.append(1)
        await eventually(lambda: len(looks) > 1)


@pytest.mark.parametrize("broken", ["cert", "key", "client_ca"])
async def test_a_file_that_is_not_pem_stops_the_start(start, hello, tls_files, tmp_path, broken):
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("not a certificate")
    document = hello(server={"tls": tls_files | {broken: str(garbage)}})
    with pytest.raises(StartupError, match=rf"server\.tls: .*{garbage}.* PEM"):
        await start(document)


async def test_a_key_of_another_certificate_stops_the_start(
    start, hello, tls_files, client, tmp_path
):
    other = tmp_path / "other.key"
    other.write_bytes(client.key)
    document = hello(server={"tls": tls_files | {"key": str(other)}})
    with pytest.raises(StartupError, match=r"server\.tls: .*other\.key.*key values mismatch"):
        await start(document)


async def test_an_encrypted_key_stops_the_start(start, hello, tls_files, client, tmp_path):
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        client.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    document = hello(server={"tls": tls_files | {"key": str(encrypted)}})
    with pytest.raises(StartupError, match=r"encrypted\.key .* not encrypted"):
        await start(document)
