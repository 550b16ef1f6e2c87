"""HTTP requests to one neighbor over pooled connections, with the library aiohttp.

Answers are bounded, are not decompressed and follow no redirect, and no cookie is kept. A request that is
cancelled closes its connection, which is how an HTTP/1.1 server learns of it.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Final

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from batcher.errors import ModelLoadError, describe
from batcher.executors.http.options import Place
from batcher.executors.http.response import Response, UnreachableError, WrongAnswerError
from batcher.executors.remote.channel import TlsOptions

__all__ = ["Client", "tls_context"]

CONNECT_S: Final = 1.0
"""Seconds that making a connection may take. A host that comes back answers the next attempt; the kernel would
ask it again after 1, 3, 7 s."""


_ATTEMPTS: Final = 100
"""Connections that are looked at for one request: more than a pool has. Only a neighbor that speaks before it is
asked leads to the last."""


class _Unasked(aiohttp.BaseConnector):
    """A connector whose idle connections are not used again if something has arrived on them.

    HTTP/1.1 has no numbers: what a neighbor sends unasked would be taken for the answer to the next request.
    """

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the library's
    ) -> Connection:
        """A connection on which nothing waits to be read."""
        for _ in range(_ATTEMPTS):
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()
        raise aiohttp.ServerDisconnectedError("the server sends what it is not asked for")


class _TcpConnector(_Unasked, aiohttp.TCPConnector):
    """Over TCP."""


class _UnixConnector(_Unasked, aiohttp.UnixConnector):
    """Through a Unix socket."""


class Client:
    """The connections to one neighbor. Make it on the event loop; call `close` at the end."""

    def __init__(
        self,
        place: Place,
        context: ssl.SSLContext | None,
        *,
        server_name: str | None,
        keep_alive_s: float,
        max_answer: int,
    ) -> None:
        """`keep_alive_s`: how long an idle connection is kept; `max_answer`: the most bytes of a body."""
        self._base = place.base
        self._max_answer = max_answer
        # As many connections as there are requests at once; `max_in_flight` bounds those.
        connector: aiohttp.BaseConnector
        if place.unix is not None:
            connector = _UnixConnector(place.unix, limit=0, keepalive_timeout=keep_alive_s)
        else:
            connector = _TcpConnector(
                limit=0,
                keepalive_timeout=keep_alive_s,
                ssl=context if context is not None else True,
                socket_factory=_socket,
            )
        self._server_name = server_name
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        )

    async def get(self, path: str, headers: Mapping[str, str]) -> Response:
        """A GET; see `send`."""
        return await self._send("GET", path, headers, None)

    async def post(self, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        """A POST. Raises `UnreachableError` and `WrongAnswerError`."""
        return await self._send("POST", path, headers, body)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None
    ) -> Response:
        try:
            async with self._session.request(
                method,
                f"{self._base}{path}",
                headers={"Accept-Encoding": "identity", **headers},
                data=body,
                allow_redirects=False,
                server_hostname=self._server_name,
            ) as answer:
                return Response(answer.status, answer.headers, await self._body(answer))
        except aiohttp.ClientPayloadError as error:
            raise UnreachableError(f"the answer broke off ({_said(error)})") from None
        except (aiohttp.ClientResponseError, aiohttp.InvalidURL, ValueError) as error:
            raise WrongAnswerError(f"its answer is no HTTP ({_said(error)})") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnreachableError(_said(error)) from None

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        encoding = answer.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise WrongAnswerError(
                f"its answer is compressed ({encoding!r}), which was not asked for"
            )
        pieces: list[bytes] = []
        left = self._max_answer - max(0, answer.content_length or 0)
        if left >= 0:
            left = self._max_answer
            while piece := await answer.content.readany():
                left -= len(piece)
                if left < 0:
                    break
                pieces.append(piece)
        if left < 0:
            answer.close()
            raise WrongAnswerError(
                f"its answer is larger than {self._max_answer} bytes (options.max_answer)"
            )
        return b"".join(pieces)


def _said(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no connection within a second"
    cause = error.__cause__
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(cause, OSError):
        return f"no connection: {cause.strerror or describe(cause)}"
    return describe(error)


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket whose kernel gives a neighbor up that has not acknowledged bytes for five seconds."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5_000)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    return made


def tls_context(model: str, tls: TlsOptions | None) -> ssl.SSLContext:
    """What verifies the neighbor. Raises `ModelLoadError` if a file of `tls` cannot be used."""
    try:
        context = ssl.create_default_context(cafile=None if tls is None else tls.ca)
        if tls is not None and tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise ModelLoadError(f"model {model!r}: options.tls: {describe(error)}") from error
    return context
