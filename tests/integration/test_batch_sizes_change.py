"""The file of a server under load names other batch sizes: nothing is lost, and the new sizes are in force."""

import asyncio
import json
import signal

import numpy as np
import pytest

from batcher.protocol import inference

WAIT_S = 30
ANY = range(1, 33)
CALLERS = 12


class Load:
    """Callers that send requests of 1 to 11 rows all the time, each checking its own answers."""

    def __init__(self, stub, request_of):
        self.going, self.stub, self.request_of = True, stub, request_of
        self.sent = self.sent_rows = self.answered = 0
        self.in_force = 0
        """How many changes of the sizes are known to be in force."""
        self.sizes = []
        """By answer: that number when its request was sent, and the sizes of the batches that it ran in."""

    async def ask(self, number):
        while self.going:
            rows, since, value = 1 + (self.sent + number) % 11, self.in_force, float(self.sent)
            self.sent += 1
            self.sent_rows += rows
            answer = await self.stub.ModelInfer(self.request_of(value, rows=rows), timeout=WAIT_S)
            raw = answer.raw_output_contents
            assert np.frombuffer(raw[0], np.float32).tolist() == [2 * value] * 4 * rows
            self.sizes.append((since, set(np.frombuffer(raw[1], np.int32).tolist())))
            self.answered += 1


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_other_batch_sizes_under_load_lose_nothing(
    serve, hello, dial, request_of, scrape, eventually, isolation
):
    document = hello(base="1ms", isolation=isolation)
    server = serve(document | {"server": {"config_poll_interval": "0"}})
    stub = await dial(server.grpc)

    def ask_for(sizes):
        changed = json.loads(server.path.read_text())
        changed["models"][0]["batching"] = {"batch_sizes": sizes}
        server.path.write_text(json.dumps(changed))
        server.process.send_signal(signal.SIGHUP)

    async def until(name, value, **labels):
        async def reached():
            return (await scrape(server.http)).sum(name, **labels) == value

        await eventually(reached)

    load = Load(stub, request_of)
    callers = [asyncio.create_task(load.ask(number)) for number in range(CALLERS)]

    async def more():
        """Return once four times as many answers came as there are callers."""
        before = load.answered
        await eventually(lambda: load.answered >= before + 4 * CALLERS or any_ended(callers))
        assert not any_ended(callers)

    await more()
    stages = [(ANY, 32), ((1, 4, 16), 16), ((2, 8), 8), ((3,), 3), ((2, 4, 5), 5)]
    for generation, (sizes, largest) in enumerate(stages[1:], 2):
        if generation == 3:
            ask_for([8, 2])
            await until("batcher_settings_changes_total", 1, source="signal", result="rejected")
            await more()
        ask_for(sizes)
        await until("batcher_model_generation", generation)
        load.in_force += 1
        await more()
        config = (await stub.ModelConfig(inference.ModelConfigRequest(name="hello"))).config
        assert config.max_batch_size == largest
        assert config.parameters["batch_sizes"].string_value == ",".join(map(str, sizes))
    load.going = False
    await asyncio.gather(*callers)
    for since, ran in load.sizes:
        # The next sizes may be in force a little before that is seen here.
        allowed = set().union(*(sizes for sizes, _ in stages[since : since + 2]))
        assert ran <= allowed, f"sent with {stages[since][0]} in force"
    for place, (sizes, _) in enumerate(stages):
        assert any(since == place for since, _ in load.sizes), f"no request with {sizes}"
    assert load.sent == load.answered
    metrics = await scrape(server.http)
    assert metrics.sum("batcher_requests_total", outcome="ok") == load.answered
    assert metrics.sum("batcher_requests_total") == load.answered
    assert metrics.sum("batcher_batch_rows_sum") == load.sent_rows, "each row ran once"
    assert metrics.sum("batcher_model_reloads_total", result="succeeded") == len(stages) - 1
    assert metrics.sum("batcher_model_reloads_total", result="failed") == 0


def any_ended(callers):
    return any(caller.done() for caller in callers)
