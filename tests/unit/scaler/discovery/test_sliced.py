"""A service's EndpointSlices, listed at an API server that is slow, wrong, gone or hostile."""

import asyncio
import json
import ssl

import pytest
from kubernetes_fake import (
    ONE,
    TWO,
    ApiServer,
    Pair,
    addresses,
    endpoint_slice,
    listed,
    status,
    unknown,
)

from batcher.scaler.discovery.kubernetes import api
from batcher.scaler.discovery.kubernetes.account import Account
from batcher.scaler.discovery.kubernetes.sliced import SlicedReplicas


class TestListing:
    async def test_it_asks_as_the_account_of_the_pod(self, look, kubernetes):
        look()
        request = await kubernetes.list()
        assert request.path == "/apis/discovery.k8s.io/v1/namespaces/ml/endpointslices"
        assert request.query["labelSelector"] == "kubernetes.io/service-name=ranker"
        assert request.headers["Authorization"] == "Bearer token-1"

    async def test_another_namespace(self, look, kubernetes):
        look(namespace="other")
        request = await kubernetes.list()
        assert request.path == "/apis/discovery.k8s.io/v1/namespaces/other/endpointslices"

    async def test_replicas_are_told_at_once(self, look, kubernetes, clock):
        looking = look()
        await (await kubernetes.list()).answer(listed(ONE, TWO))
        found = await looking.first()
        assert addresses(found) == ["10.0.0.1:8001", "10.0.0.2:8001"]
        assert [each.name for each in found.endpoints] == ["p1", "p2"]
        assert found.at_ns == clock.now

    async def test_a_service_without_endpoints_is_an_empty_fleet(self, look, kubernetes):
        looking = look()
        await (await kubernetes.list()).answer(listed(endpoint_slice("a", ports=[])))
        assert addresses(await looking.first()) == []

    async def test_a_service_that_does_not_exist_is_not_known(self, look, kubernetes):
        looking = look()
        await (await kubernetes.list()).answer(listed())
        assert "no EndpointSlice of a service 'ranker'" in unknown(await looking.first())
        looking.go_on()
        await (await kubernetes.list()).answer(listed(ONE))
        await looking.until(lambda: len(looking.told) == 2)
        assert addresses(looking.told[1]) == ["10.0.0.1:8001"]

    @pytest.mark.parametrize(
        ("code", "says", "expected"),
        [
            (401, status(401, "Unauthorized", "Unauthorized"), "does not accept the token in"),
            (
                403,
                status(403, "Forbidden", 'endpointslices.discovery.k8s.io is forbidden: User "x"'),
                "apiGroups [discovery.k8s.io], resources [endpointslices], verbs [list, watch], and a RoleBinding",
            ),
            (404, status(404, "NotFound", "not found"), "has no discovery.k8s.io/v1"),
            (410, status(410, "Expired", "too old"), "has forgotten what changed"),
            (429, status(429, "TooManyRequests", "later"), "answers 429 later"),
            (500, b"<html>\n\x1b[31moops</html>", "answers 500 <html> ?[31moops</html>"),
            (503, b"", "answers 503"),
            (302, b"", "answers 302"),
            (204, b"", "answers 204"),
            (200, status(200, "", ""), "is no list of EndpointSlices"),
            (200, b"{", "is no list of EndpointSlices"),
            (500, b"[" * 60_000, "answers 500"),
            (500, b"x" * (api._MAX_REFUSAL + 1), "answers 500"),
        ],
    )
    async def test_refusals_say_what_to_do(self, look, kubernetes, code, says, expected):
        looking = look()
        request = await kubernetes.list()
        await request.answer(says, code, ["Location: https://127.0.0.1:1/"] if code == 302 else ())
        why = unknown(await looking.first())
        assert expected in why
        assert len(why) < 1000
        assert why.isprintable()

    async def test_a_refusal_does_not_repeat_the_token(self, look, kubernetes):
        looking = look()
        await (await kubernetes.list()).answer(b"what is token-1?", 400)
        assert "what is ***?" in unknown(await looking.first())

    async def test_the_token_is_read_again(self, look, kubernetes, folder):
        looking = look()
        await (await kubernetes.list()).answer(status(401, "Unauthorized", "expired"), 401)
        unknown(await looking.first())
        (folder / "token").write_text("token-2")
        looking.go_on()
        request = await kubernetes.list()
        assert request.headers["Authorization"] == "Bearer token-2"

    async def test_a_list_that_is_too_large_is_not_read(self, look, kubernetes):
        looking = look()
        request = await kubernetes.list()
        await request.begin()
        sending = asyncio.ensure_future(request.send(bytes(api.MAX_LIST + 1)))
        assert f"larger than {api.MAX_LIST} bytes" in unknown(await looking.first())
        sending.cancel()

    async def test_a_list_that_breaks_off_is_not_known(self, look, kubernetes):
        looking = look()
        request = await kubernetes.list()
        await request.begin()
        await request.send(json.dumps(listed(ONE)).encode()[:-1])
        request.cut()
        assert "broke off" in unknown(await looking.first())

    async def test_a_server_that_hangs_is_not_known(self, look, kubernetes, monkeypatch):
        monkeypatch.setattr(api, "ANSWER_S", 0.01)
        assert "has not answered" in unknown(await look().first())

    async def test_a_server_that_is_not_there_is_not_known(self, look):
        looking = look(KUBERNETES_SERVICE_PORT="1")
        why = unknown(await looking.first())
        assert "https://127.0.0.1:1 cannot be asked: no connection: Connect call failed" in why
        assert unknown(await looking.next()) == why
        assert unknown(await looking.next()) == why
        assert len(looking.pauses) >= 2
        assert all(0.25 <= pause <= 8 for pause in looking.pauses)

    async def test_what_is_no_http_is_not_known(self, running, folder, rng):
        async def talk(_, writer):
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        environ = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(server.sockets[0].getsockname()[1]),
        }
        looking = running(
            lambda pause: SlicedReplicas(
                "ranker", None, 1, account=Account(environ, folder), pause=pause, rng=rng
            )
        )
        unknown(await looking.first())
        await looking.stop()
        server.close()


class TestTrust:
    async def test_another_authority_is_not_trusted(self, look, folder, kubernetes, authority):
        (folder / "ca.crt").write_bytes(Pair("other").pem)
        looking = look()
        assert "not the one that ca.crt vouches for" in unknown(await looking.first())
        (folder / "ca.crt").write_bytes(authority.pem)
        looking.go_on()
        await (await kubernetes.list()).answer(listed(ONE))
        await looking.until(lambda: len(looking.told) == 2)
        assert addresses(looking.told[1]) == ["10.0.0.1:8001"]

    async def test_another_name_is_not_trusted(self, running, folder, authority, tmp_path, rng):
        server = ApiServer(Pair("server", authority, "10.96.0.1").write(tmp_path / "s.pem"))
        await server.start()
        environ = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(server.port),
        }
        looking = running(
            lambda pause: SlicedReplicas(
                "ranker", None, 1, account=Account(environ, folder), pause=pause, rng=rng
            )
        )
        assert "not the one that ca.crt vouches for" in unknown(await looking.first())
        await looking.stop()
        await server.stop()

    async def test_without_tls_nothing_is_sent(self, running, folder, rng):
        got = bytearray()

        async def talk(reader, writer):
            got.extend(await reader.read(100))
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        environ = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(server.sockets[0].getsockname()[1]),
        }
        looking = running(
            lambda pause: SlicedReplicas(
                "ranker", None, 1, account=Account(environ, folder), pause=pause, rng=rng
            )
        )
        unknown(await looking.first())
        await looking.stop()
        server.close()
        assert got[:1] == b"\x16", "a TLS handshake"
        assert b"token-1" not in got


class TestAccount:
    @pytest.mark.parametrize("missing", ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"])
    async def test_outside_a_cluster(self, look, missing):
        looking = look(**{missing: ""})
        assert "works in a pod of Kubernetes only" in unknown(await looking.first())

    @pytest.mark.parametrize("name", ["token", "ca.crt"])
    async def test_a_file_that_is_missing(self, look, folder, name):
        (folder / name).unlink()
        why = unknown(await look().first())
        assert f"cannot read {folder / name}" in why
        assert "automountServiceAccountToken" in why

    async def test_without_the_file_of_the_namespace_it_must_be_set(self, look, folder, kubernetes):
        (folder / "namespace").unlink()
        assert "set namespace" in unknown(await look().first())
        look(namespace="ml")
        await kubernetes.list()

    @pytest.mark.parametrize("token", ["", "\n", "a\nb", "a\r\nX-Evil: 1", "\xff"])
    async def test_what_is_no_token(self, look, folder, token):
        (folder / "token").write_text(token)
        assert "holds no token" in unknown(await look().first())

    @pytest.mark.parametrize("text", ["", "no certificate", "\xff"])
    async def test_what_is_no_certificate(self, look, folder, text):
        (folder / "ca.crt").write_text(text)
        assert "must hold certificates" in unknown(await look().first())

    def test_addresses_of_ipv6_are_in_brackets(self, folder):
        environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
        assert Account(environ, folder).access().base == "https://[fd00::1]:443"

    def test_the_context_is_made_once(self, folder):
        environ = {"KUBERNETES_SERVICE_HOST": "h", "KUBERNETES_SERVICE_PORT": "443"}
        account = Account(environ, folder)
        context = account.access().context
        assert account.access().context is context
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
