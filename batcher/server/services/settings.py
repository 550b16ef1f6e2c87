"""The admin RPCs about settings: GetSettings, UpdateSettings, Reload."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import yaml
from google.protobuf.message import Message

from batcher.config import Change
from batcher.config.section import dotted
from batcher.errors import ConfigError, InvalidRequest
from batcher.live_settings import LiveSettings
from batcher.protocol import admin
from batcher.server.calls import Context, answered
from batcher.server.status import Style
from batcher.telemetry import ChangeSource


class SettingsServicer:
    """Answers the RPCs of `batcher.admin.v1.Admin` about settings."""

    def __init__(self, live_settings: LiveSettings, style: Style) -> None:
        self._live_settings = live_settings
        self._style = style

    def methods(self) -> dict[str, Callable[[Any, Context], Awaitable[Message]]]:
        """Method name -> handler, which takes and returns messages."""
        answers: dict[str, Callable[[Any], Awaitable[Message]]] = {
            "GetSettings": self._get,
            "UpdateSettings": self._update,
            "Reload": self._reload,
        }
        return {name: self._guarded(method) for name, method in answers.items()}

    def _guarded(
        self, method: Callable[[Any], Awaitable[Message]]
    ) -> Callable[[Any, Context], Awaitable[Message]]:
        async def answer(request: Any, context: Context) -> Message:
            return await answered(method(request), context, self._style)

        return answer

    async def _get(self, request: admin.GetSettingsRequest) -> admin.GetSettingsResponse:
        response = admin.GetSettingsResponse(generation=self._live_settings.generation)
        for name, version, settings in self._live_settings.values(request.model, request.version):
            text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
            response.models.add(model=name, version=version, settings=text)
        return response

    async def _update(self, request: admin.UpdateSettingsRequest) -> admin.UpdateSettingsResponse:
        applied = await self._live_settings.update(
            request.model,
            request.version,
            dict(request.changes),
            validate_only=request.validate_only,
        )
        return admin.UpdateSettingsResponse(
            generation=applied.generation, changes=_messages(applied.changes)
        )

    async def _reload(self, _: admin.ReloadRequest) -> admin.ReloadResponse:
        try:
            applied = await self._live_settings.reload(ChangeSource.RPC)
        except ConfigError as error:
            raise InvalidRequest("; ".join(error.problems)) from error
        return admin.ReloadResponse(
            generation=applied.generation, changes=_messages(applied.changes)
        )


def _messages(changes: Iterable[Change]) -> list[admin.SettingChange]:
    return [
        admin.SettingChange(
            model=change.model,
            version=change.version,
            path=dotted(change.path),
            old=change.old,
            new=change.new,
        )
        for change in changes
    ]
