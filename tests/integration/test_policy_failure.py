"""A policy that breaks its contract is counted, and every request is answered."""

from batcher.core.policies import BatchPolicy
from batcher.testing.messages import output_arrays


class Broken(BatchPolicy):
    def decide(self, group, now_ns):
        raise ZeroDivisionError("a mistake in a policy")


async def test_a_failed_policy_is_counted_and_every_request_is_answered(
    start, hello, dial, request_of, caplog
):
    application = await start(hello())
    stub = await dial(application.grpc.addresses[0])
    labels = {"model": "hello", "version": "1"}
    value = application.registry.get_sample_value
    assert value("batcher_policy_failures_total", labels) == 0

    application.runner._scheduler.models["hello/1"].policy = Broken()
    for number in (1, 2):
        answer = await stub.ModelInfer(request_of(number))
        assert output_arrays(answer)["Y"].max() == 2 * number

    assert value("batcher_policy_failures_total", labels) == 1
    assert "formed greedily until its settings change: ZeroDivisionError: a mistake" in caplog.text
