"""A service's EndpointSlices, watched at an API server that cuts, hangs, forgets or lies."""

import asyncio
import json

import pytest
from kubernetes_fake import (
    ONE,
    TWO,
    addresses,
    bookmark,
    endpoint_slice,
    event,
    listed,
    status,
    unknown,
)

from batcher.clock import SECOND
from batcher.scaler.discovery.interface import HEARTBEAT_NS
from batcher.scaler.discovery.kubernetes import api


class TestWatching:
    async def test_it_begins_where_the_list_ended(self, watched):
        _, watch = watched
        assert watch.version == "10"
        assert watch.query["allowWatchBookmarks"] == "true"
        assert int(watch.query["timeoutSeconds"]) * SECOND < HEARTBEAT_NS

    async def test_changes_are_told_as_they_come(self, watched):
        looking, watch = watched
        await watch.send(event("ADDED", TWO))
        await looking.until(lambda: len(looking.told) == 2)
        assert addresses(looking.told[1]) == ["10.0.0.1:8001", "10.0.0.2:8001"]
        gone = {**ONE, "metadata": {**ONE["metadata"], "resourceVersion": "12"}}
        await watch.send(event("DELETED", gone))
        await looking.until(lambda: len(looking.told) == 3)
        assert addresses(looking.told[2]) == ["10.0.0.2:8001"]

    async def test_the_last_endpoint_goes_and_the_fleet_is_empty(self, watched):
        looking, watch = watched
        await watch.send(event("MODIFIED", endpoint_slice("a", ports=[], version="12")))
        await looking.until(lambda: len(looking.told) == 2)
        assert addresses(looking.told[1]) == []

    async def test_an_event_may_come_in_pieces_and_several_at_once(self, watched):
        looking, watch = watched
        lines = b"".join(
            json.dumps(each).encode() + end
            for each, end in ((event("ADDED", TWO), b"\r\n"), (bookmark("20"), b"\n"))
        )
        await watch.send(lines[:10])
        await watch.send(lines[10:-5])
        await watch.send(lines[-5:] + b"\n\n")
        await looking.until(lambda: looking.told[-1].endpoints[1:])
        assert addresses(looking.told[-1]) == ["10.0.0.1:8001", "10.0.0.2:8001"]

    async def test_its_orderly_end_confirms_what_is_known(self, watched, kubernetes, clock):
        looking, watch = watched
        await watch.send(bookmark("30"))
        await looking.until(lambda: len(looking.told) == 2)
        clock.now += 9 * SECOND
        await watch.end()
        again = await kubernetes.watch()
        assert again.version == "30"
        assert addresses(looking.told[-1]) == ["10.0.0.1:8001"]
        assert looking.told[-1].at_ns == clock.now
        assert not looking.pauses

    async def test_one_that_ends_at_once_is_not_repeated_without_a_pause(self, watched, kubernetes):
        looking, watch = watched
        await watch.end()
        await looking.until(lambda: looking.pauses)
        looking.go_on()
        await (await kubernetes.list()).answer(listed(ONE))
        await (await kubernetes.watch()).answer(b"")
        await looking.until(lambda: len(looking.pauses) == 2)
        assert looking.pauses[0] <= 0.5 <= looking.pauses[1]

    async def test_one_that_ends_too_early_confirms_nothing(self, watched, kubernetes, clock):
        """A proxy that gives up, or an answer whose end cannot be told from a cut."""
        looking, watch = watched
        for _ in range(3):
            clock.now += 5 * SECOND
            await watch.end()
            looking.go_on()
            request = await kubernetes.list()
            assert looking.told[-1].at_ns < clock.now
            await request.answer(listed(ONE))
            watch = await kubernetes.watch()
            await watch.begin()
        assert all(pause <= 0.5 for pause in looking.pauses)

    @pytest.mark.parametrize("how", ["connection", "middle", "middle, in good order"])
    async def test_after_one_that_is_cut_everything_is_listed_again(self, watched, kubernetes, how):
        looking, watch = watched
        if how != "connection":
            await watch.send(json.dumps(event("ADDED", TWO)).encode()[:-20])
        if how == "middle, in good order":
            await watch.end()
        else:
            watch.cut()
        await looking.until(lambda: looking.pauses)
        assert len(looking.told) == 1, "what is listed next says whether anything is unknown"
        looking.go_on()
        await (await kubernetes.list()).answer(listed(ONE, TWO, version="50"))
        await looking.until(lambda: len(looking.told) == 2)
        assert addresses(looking.told[1]) == ["10.0.0.1:8001", "10.0.0.2:8001"]
        assert (await kubernetes.watch()).version == "50"

    async def test_after_one_that_hangs_everything_is_listed_again(
        self, look, kubernetes, monkeypatch
    ):
        monkeypatch.setattr(api, "WATCH_S", 0.01 - api.ANSWER_S)
        looking = look()
        await (await kubernetes.list()).answer(listed(ONE))
        await looking.until(lambda: looking.pauses)
        monkeypatch.undo()
        looking.go_on()
        while (request := await kubernetes.next()).watch:
            pass  # on a slow machine, it may end before it is sent
        await request.answer(listed(TWO))
        await looking.until(lambda: len(looking.told) == 2)
        assert addresses(looking.told[1]) == ["10.0.0.2:8001"]

    @pytest.mark.parametrize("in_stream", [True, False])
    async def test_a_version_that_is_forgotten_is_listed_again(self, look, kubernetes, in_stream):
        looking = look()
        await (await kubernetes.list()).answer(listed(ONE))
        watch = await kubernetes.watch()
        gone = status(410, "Expired", "too old resource version")
        if in_stream:
            await watch.begin()
            await watch.send(event("ERROR", gone))
        else:
            await watch.answer(gone, 410)
        looking.go_on()
        await (await kubernetes.list()).answer(listed(TWO, version="60"))
        await looking.until(lambda: len(looking.told) == 2)
        assert addresses(looking.told[1]) == ["10.0.0.2:8001"]
        assert (await kubernetes.watch()).version == "60"

    async def test_a_token_that_expires_meanwhile(self, watched, kubernetes, folder, clock):
        looking, watch = watched
        clock.now += 9 * SECOND
        await watch.end()
        again = await kubernetes.watch()
        (folder / "token").write_text("token-2")
        await again.answer(status(401, "Unauthorized", "expired"), 401)
        looking.go_on()
        request = await kubernetes.list()
        assert request.headers["Authorization"] == "Bearer token-2"
        await request.answer(listed(TWO))
        await looking.until(lambda: looking.told[-1].endpoints[0].name == "p2")
        assert all(each.ok for each in looking.told)

    async def test_without_the_right_to_watch_it_lists(self, look, kubernetes, caplog):
        looking = look()
        for _ in range(3):
            await (await kubernetes.list()).answer(listed(ONE))
            await (await kubernetes.watch()).answer(status(403, "Forbidden", "no"), 403)
            looking.go_on()
        await kubernetes.list()
        assert [addresses(each) for each in looking.told] == [["10.0.0.1:8001"]] * 3
        said = [each for each in caplog.records if each.levelname == "WARNING"]
        assert len(said) == 1
        assert "may not watch endpointslices in the namespace ml" in said[0].getMessage()

    async def test_a_service_that_is_deleted_is_not_known(self, watched, kubernetes):
        looking, watch = watched
        await watch.send(event("DELETED", ONE))
        looking.go_on()
        await (await kubernetes.list()).answer(listed())
        await looking.until(lambda: len(looking.told) == 2)
        unknown(looking.told[1])

    @pytest.mark.parametrize(
        "line", [b"{\n", b"null\n", b'{"type": "ADDED", "object": {}}\n', b"[" * 1000 + b"\n"]
    )
    async def test_after_what_is_no_event_everything_is_listed_again(
        self, watched, kubernetes, line
    ):
        looking, watch = watched
        await watch.send(line)
        looking.go_on()
        await (await kubernetes.list()).answer(listed(TWO))
        await looking.until(lambda: len(looking.told) == 2)
        assert addresses(looking.told[1]) == ["10.0.0.2:8001"]

    async def test_an_event_without_end_is_not_kept(self, watched, kubernetes, caplog):
        caplog.set_level("INFO")
        looking, watch = watched
        sending = asyncio.ensure_future(watch.send(b"x" * (api.MAX_LINE + 1)))
        looking.go_on()
        await kubernetes.list()
        sending.cancel()
        assert f"larger than {api.MAX_LINE} bytes" in caplog.text

    async def test_a_list_that_fails_after_a_watch_is_told(self, watched, kubernetes):
        looking, watch = watched
        watch.cut()
        looking.go_on()
        await (await kubernetes.list()).answer(b"", 503)
        await looking.until(lambda: len(looking.told) == 2)
        assert "503" in unknown(looking.told[1])


class TestEnding:
    async def test_while_it_watches(self, watched, kubernetes):
        looking, _ = watched
        await looking.stop()
        await asyncio.wait_for(kubernetes.gone.acquire(), 60)

    async def test_while_it_lists(self, look, kubernetes):
        looking = look()
        await kubernetes.list()
        await looking.stop()
        await asyncio.wait_for(kubernetes.gone.acquire(), 60)

    async def test_while_it_pauses(self, look):
        looking = look(KUBERNETES_SERVICE_HOST="")
        await looking.until(lambda: looking.pauses)
        await looking.stop()
