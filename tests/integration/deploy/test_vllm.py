"""The overlay `vllm` in front of a server that answers as vLLM's does."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import pytest

from batcher.protocol import INFERENCE, Stub
from batcher.protocol import inference as pb

pytestmark = pytest.mark.slow


class Answers(BaseHTTPRequestHandler):
    """The two paths of vLLM that the overlay asks, and its errors."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.reply(200 if self.path == "/health" else 404, b"")

    def do_POST(self):
        if self.server.gone:
            self.close_connection = True
            return
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.batches.append(asked["input"])
        if asked["model"] != "ranker" or self.path != "/v1/embeddings":
            self.reply(404, b'{"message": "no such model"}')
        elif any(text == "too long" for text in asked["input"]):
            self.reply(400, b'{"message": "maximum context length"}')
        elif self.server.busy:
            self.reply(503, b"")
        else:
            data = [
                {"index": index, "embedding": [float(len(text)), 0.5]}
                for index, text in enumerate(asked["input"])
            ]
            # In any order: each says which it is.
            self.reply(200, json.dumps({"data": data[::-1]}).encode())

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def vllm():
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.batches, server.busy, server.gone = [], False, False
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def embed(overlay, deploy, serve, vllm):
    """A function from texts, one request for each, to their calls."""
    config = overlay("vllm", drain_delay="0s")
    (model,) = config["models"]
    model["options"]["target"] = f"{deploy}/overlays/vllm/embeddings.py:Embeddings"
    model["options"]["args"]["address"] = f"127.0.0.1:{vllm.server_port}"
    server = serve(config)
    with grpc.insecure_channel(server.grpc) as channel:
        infer = Stub(channel, INFERENCE).ModelInfer

        def calls(*texts):
            return [infer.future(request(text), timeout=20) for text in texts]

        yield calls


def request(text):
    message = pb.ModelInferRequest(model_name="ranker")
    message.inputs.add(name="text", datatype="BYTES", shape=[1])
    data = text.encode()
    message.raw_input_contents.append(len(data).to_bytes(4, "little") + data)
    return message


def embedding(answer):
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("embedding", "FP32", [1, 2])
    return np.frombuffer(answer.raw_output_contents[0], np.float32).tolist()


def test_each_text_gets_its_own_embedding_or_its_own_refusal(embed, vllm):
    vllm.batches.clear()
    texts = ["a" * (n + 1) for n in range(24)]
    answers = [embedding(call.result()) for call in embed(*texts)]
    assert answers == [[n + 1.0, 0.5] for n in range(24)]
    assert len(vllm.batches) < 24
    good, bad, other = embed("a", "too long", "abc")
    assert embedding(good.result()) == [1.0, 0.5]
    assert embedding(other.result()) == [3.0, 0.5]
    assert bad.exception().code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "maximum context length" in bad.exception().details()


def test_vllm_that_has_no_room_or_is_gone_is_no_failure_of_a_text(embed, vllm):
    vllm.busy = True
    (call,) = embed("a")
    assert call.exception().code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    vllm.busy, vllm.gone = False, True
    (call,) = embed("a")
    assert call.exception().code() == grpc.StatusCode.UNAVAILABLE
    vllm.gone = False
    (call,) = embed("a")
    assert embedding(call.result()) == [1.0, 0.5]
