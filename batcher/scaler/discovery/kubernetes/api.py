"""Requests for the EndpointSlices of a service. Answers are bounded in size and time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from batcher.errors import describe, on_one_line
from batcher.scaler.discovery.interface import HEARTBEAT_NS
from batcher.scaler.discovery.kubernetes.account import Access, Account
from batcher.scaler.discovery.kubernetes.slices import MAX_SLICES, GoneError
from batcher.scaler.discovery.looking import DiscoveryError

ANSWER_S: Final = 6.0
"""How long a list may take, and how much longer a watch than it was told to last."""

WATCH_S: Final = int(0.9 * HEARTBEAT_NS / 1e9)
"""How long the server is told to watch. That it ends then says that it was there all the time: a watch that
brings nothing looks like one whose connection is dead."""

MAX_LIST: Final = 4 * 1024**2
"""The most bytes of a list: a thousand endpoints of two families have about one million."""

MAX_LINE: Final = 2 * 1024**2
"""The most bytes of an event. Kubernetes stores no object that is larger than 1.5 MiB."""

_MAX_REFUSAL: Final = 64 * 1024
"""Bytes that are read of an answer that is a refusal."""


class CutError(DiscoveryError):
    """A watch ended before its time."""


class ApiServer:
    """The API server of the cluster. Make it on the event loop; call `close` at the end."""

    def __init__(self, account: Account, service: str, namespace: str | None) -> None:
        self._account = account
        self._service = service
        self._namespace = namespace
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=2),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_S / 2),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def namespace(self) -> str:
        """The namespace of the service. Raises `DiscoveryError` where it is not known."""
        if self._namespace is not None:
            return self._namespace
        own = (await asyncio.to_thread(self._account.access)).namespace
        if not own:
            raise DiscoveryError("the file of the pod's namespace cannot be read: set namespace")
        return own

    async def listed(self) -> bytes:
        """All slices, and the version up to which they are true."""
        try:
            async with (
                asyncio.timeout(ANSWER_S),
                self._get("list", {"limit": str(MAX_SLICES)}) as answer,
            ):
                return await _body(answer, MAX_LIST)
        except TimeoutError:
            raise DiscoveryError(
                f"the API server has not answered a list of EndpointSlices within {ANSWER_S:g} s"
            ) from None

    async def watch(self, version: str, take: Callable[[list[bytes]], None]) -> None:
        """Have `take` called with what has changed since `version`, as it arrives, for `WATCH_S` seconds: lines.

        Raises `CutError` if it ends otherwise, and what `take` raises.
        """
        query = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
        }
        line = bytearray()
        try:
            async with asyncio.timeout(WATCH_S + ANSWER_S), self._get("watch", query) as answer:
                while piece := await answer.content.readany():
                    *ended, rest = piece.split(b"\n")
                    if ended:
                        line += ended[0]
                        take([each for each in (bytes(line), *ended[1:]) if each.strip()])
                        line.clear()
                    line += rest
                    if len(line) > MAX_LINE:
                        raise CutError(
                            f"an event of the API server is larger than {MAX_LINE} bytes"
                        )
        except TimeoutError:
            raise CutError(
                f"the API server has not ended a watch of {WATCH_S} s after {WATCH_S + ANSWER_S:g} s"
            ) from None
        if line.strip():
            raise CutError("the API server ended a watch in the middle of an event")

    @asynccontextmanager
    async def _get(
        self, verb: str, query: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        namespace = await self.namespace()
        access = await asyncio.to_thread(self._account.access)
        try:
            async with self._session.get(
                f"{access.base}/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
                params={"labelSelector": f"kubernetes.io/service-name={self._service}", **query},
                headers={
                    "Authorization": f"Bearer {access.token}",
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                },
                ssl=access.context,
                allow_redirects=False,
            ) as answer:
                if answer.status != 200:
                    raise await self._refusal(answer, verb, namespace, access)
                yield answer
        except aiohttp.ClientPayloadError as error:
            raise CutError(f"an answer of the API server broke off: {describe(error)}") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise DiscoveryError(
                f"the API server at {access.base} is not the one that ca.crt vouches for:"
                f" {on_one_line(str(error.certificate_error))}"
            ) from None
        except (aiohttp.ClientError, ValueError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise DiscoveryError(
                f"the API server at {access.base} cannot be asked: {_why(error)}"
            ) from None

    async def _refusal(
        self, answer: aiohttp.ClientResponse, verb: str, namespace: str, access: Access
    ) -> DiscoveryError:
        said = f"{answer.status} {await _message(answer)}".replace(access.token, "***")
        match answer.status:
            case 401:
                return DiscoveryError(
                    f"the API server does not accept the token in {self._account.token_file}; it is"
                    f" read again for the next attempt: {said}"
                )
            case 403:
                return DiscoveryError(
                    f"the pod's ServiceAccount may not {verb} endpointslices in the namespace"
                    f" {namespace}: it needs a Role there with apiGroups [discovery.k8s.io], resources"
                    f" [endpointslices], verbs [list, watch], and a RoleBinding: {said}"
                )
            case 404:
                return DiscoveryError(
                    f"the API server at {access.base} has no discovery.k8s.io/v1 (Kubernetes 1.21): {said}"
                )
            case 410:
                return GoneError(f"the API server has forgotten what changed since: {said}")
        return DiscoveryError(f"the API server at {access.base} answers {said}")


def _why(error: Exception) -> str:
    """The same text each time: aiohttp's own names objects by where they are in memory."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {error.os_error.strerror or describe(error.os_error)}"
    return describe(error)


async def _body(answer: aiohttp.ClientResponse, most: int) -> bytes:
    pieces: list[bytes] = []
    left = most
    while piece := await answer.content.readany():
        left -= len(piece)
        if left < 0:
            raise DiscoveryError(f"an answer of the API server is larger than {most} bytes")
        pieces.append(piece)
    return b"".join(pieces)


async def _message(answer: aiohttp.ClientResponse) -> str:
    """What a refusal says: the message of a Status, or its start."""
    try:
        body = await _body(answer, _MAX_REFUSAL)
    except DiscoveryError:
        return ""
    try:
        read = json.loads(body)
    except (ValueError, RecursionError):
        read = None
    message = read.get("message") if isinstance(read, dict) else None
    return on_one_line(message if isinstance(message, str) else body.decode(errors="replace"))
