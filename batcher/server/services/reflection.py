"""Server reflection in both versions of its protocol, v1 and v1alpha.

gRPC's own reflection package serves protobuf's default pool, which does not have these messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import ModuleType
from typing import Any

import grpc

from batcher import protocol

_SERVICE = "ServerReflection"
_PACKAGES: dict[str, ModuleType] = {
    "grpc.reflection.v1": protocol.reflection,
    "grpc.reflection.v1alpha": protocol.reflection_v1alpha,
}


def reflection_handlers(services: Sequence[str]) -> list[grpc.GenericRpcHandler]:
    """The handlers to add to a `grpc.aio` server that offers these services (full names).

    Reflection lists them and itself.
    """
    listed = sorted({*services, *(f"{package}.{_SERVICE}" for package in _PACKAGES)})
    return [
        protocol.handlers(
            f"{package}.{_SERVICE}",
            {"ServerReflectionInfo": _Reflection(messages, listed).answer_all},
        )
        for package, messages in _PACKAGES.items()
    ]


class _Reflection:
    """Answers requests of one version; `messages` is the module of its message classes."""

    def __init__(self, messages: Any, services: Sequence[str]) -> None:
        self._messages = messages
        self._services = services
        self._turn = asyncio.Lock()

    async def answer_all(
        self, requests: AsyncIterator[Any], _context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        """One response for each request, in order."""
        async for request in requests:
            response = self._messages.ServerReflectionResponse(
                valid_host=request.host, original_request=request
            )
            try:
                self._fill(response, request)
            except KeyError:
                self._error(
                    response,
                    grpc.StatusCode.NOT_FOUND,
                    "no file, symbol or type of that name; list_services lists the services",
                )
            # An answer is up to 500 times as large as its request: one in each iteration of the event
            # loop, for all streams together.
            async with self._turn:
                await asyncio.sleep(0)
            yield response

    def _fill(self, response: Any, request: Any) -> None:
        """Set the one answer in `response`. Raises KeyError for an unknown name."""
        choice = request.WhichOneof("message_request")
        if choice == "list_services":
            for name in self._services:
                response.list_services_response.service.add(name=name)
        elif choice == "file_by_filename":
            self._files(response, request.file_by_filename)
        elif choice == "file_containing_symbol":
            self._files(response, protocol.file_containing(request.file_containing_symbol))
        elif choice == "all_extension_numbers_of_type":
            # None of our messages can be extended, so a known name has no extensions.
            protocol.file_containing(request.all_extension_numbers_of_type)
            response.all_extension_numbers_response.base_type_name = (
                request.all_extension_numbers_of_type
            )
        elif choice == "file_containing_extension":
            raise KeyError(choice)
        else:
            self._error(
                response,
                grpc.StatusCode.INVALID_ARGUMENT,
                "the request has no message_request; set one",
            )

    @staticmethod
    def _files(response: Any, name: str) -> None:
        response.file_descriptor_response.file_descriptor_proto.extend(
            protocol.file_and_imports(name)
        )

    @staticmethod
    def _error(response: Any, code: grpc.StatusCode, message: str) -> None:
        response.error_response.error_code = code.value[0]
        response.error_response.error_message = message
