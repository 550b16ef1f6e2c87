"""A real Prometheus stores Triton's names beside ours, and they say the same."""

import time

import grpc
import numpy as np
import pytest
from truth import prometheus
from truth.scene import describe_gpu, fake_nvml_path

from batcher import protocol
from batcher.testing.messages import infer_request
from batcher.testing.server import ServerProcess

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

GPU = "GPU-1b2c3d4e-0000-4000-8000-000000000000"
CONFIG = {
    "models": [
        {"name": "hello", "executor": "emulated", "device": "gpu0", "options": {"columns": 4}}
    ],
    "devices": {"gpu0": {"gpu": 0, "max_in_flight": 1}},
    "metrics": {"triton_names": True},
}
EQUAL = {
    "nv_inference_request_success": 'batcher_requests_total{outcome="ok",model="hello"}',
    "sum(nv_inference_request_failure)": 'sum(batcher_requests_total{outcome!="ok",model="hello"})',
    "nv_inference_count": "batcher_batch_rows_sum",
    "nv_inference_exec_count": "batcher_batch_rows_count",
    "nv_inference_pending_request_count": "batcher_queue_requests",
    "nv_gpu_utilization": 'batcher_device_utilization_ratio{source="nvml"}',
    "nv_gpu_memory_used_bytes": "batcher_device_memory_used_bytes",
    "nv_gpu_memory_total_bytes": "batcher_device_memory_total_bytes",
    "nv_gpu_power_usage": "batcher_device_power_watts",
}


def test_dashboards_for_triton_find_what_they_ask_for(tmp_path):
    if not prometheus.there():
        pytest.skip("prometheus is not installed (.ci/packages.txt)")
    describe_gpu(tmp_path, {"uuid": GPU})
    environ = {"FAKE_NVML": str(tmp_path / "nvml.json"), "PYTHONPATH": fake_nvml_path()}
    with ServerProcess(CONFIG, folder=tmp_path, environ=environ) as server:
        with grpc.insecure_channel(server.grpc) as channel:
            infer = protocol.Stub(channel, protocol.INFERENCE).ModelInfer
            for _ in range(7):
                infer(infer_request("hello", {"X": np.zeros((3, 4), np.float32)}), timeout=30)
            with pytest.raises(grpc.RpcError):
                infer(infer_request("hello", {"X": np.zeros((1, 5), np.float32)}), timeout=30)
        with prometheus.running(server.http, tmp_path, "500ms") as watching:

            def value(query):
                found = watching.ask("query", query=query)["result"]
                return [(each["metric"].get("gpu_uuid"), float(each["value"][1])) for each in found]

            until_s = time.monotonic() + 60
            # The GPU is read on a thread, and processors are measured from one scrape to the next.
            while not (value("nv_gpu_utilization") and value("nv_cpu_utilization")):
                assert time.monotonic() < until_s, "no statistics of the GPU"
                time.sleep(0.1)
            for theirs, ours in EQUAL.items():
                assert [v for _, v in value(theirs)] == [v for _, v in value(ours)] != [], theirs
            assert value("nv_inference_request_success") == [(None, 7)]
            assert value("nv_inference_count") == [(None, 21)]
            assert value('nv_inference_request_failure{reason="OTHER"}') == [(None, 1)]
            assert [uuid for uuid, _ in value("nv_gpu_power_usage")] == [GPU]
            assert 0 <= value("nv_cpu_utilization")[0][1] <= 1
            assert value("nv_cpu_memory_total_bytes") > value("nv_cpu_memory_used_bytes")
