"""A server on a thread of its own that answers as a test says."""

import asyncio
import json
import threading

import numpy as np
import pytest
from aiohttp import web

SPECS = {
    "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [
        {"name": "Y", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "N", "datatype": "INT64", "shape": [-1, 1]},
    ],
}


class Server:
    """`answers` maps a path to a function from the request and its body to an answer."""

    def __init__(self, unix=None, tls=None):
        self._unix, self._tls = unix, tls
        self.answers = {}
        self.seen = []
        self.peers = set()
        self.ended = threading.Semaphore(0)
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    def _run(self):
        asyncio.run(self._serve())

    async def _serve(self):
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        runner = web.ServerRunner(
            web.Server(self._answer, handler_cancellation=True), shutdown_timeout=0.1
        )
        await runner.setup()
        if self._unix is not None:
            await web.UnixSite(runner, self._unix).start()
            self.url = f"unix:{self._unix}"
        else:
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls)
            await site.start()
            port = site._server.sockets[0].getsockname()[1]
            self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _answer(self, request):
        body = await request.read()
        self.seen.append((request.method, request.path, dict(request.headers), body))
        self.peers.add(request.transport.get_extra_info("peername"))
        answer = self.answers.get(request.path)
        if answer is None:
            return web.json_response({"error": "no such path"}, status=404)
        try:
            made = answer(request, body)
            if asyncio.iscoroutine(made):
                made = await made
        except asyncio.CancelledError:
            self.ended.release()
            raise
        return made if isinstance(made, web.StreamResponse) else web.json_response(made)

    def posted(self):
        """The bodies of the batches, as JSON."""
        return [json.loads(body) for method, _, _, body in self.seen if method == "POST"]

    def close(self):
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()


def twice(_request, body):
    """A v1 model: Y = 2 * X and N, the row's place in its batch plus a large number."""
    rows = json.loads(body)["instances"]
    return {"predictions": [{"Y": [2 * x for x in row], "N": 2**60} for row in rows]}


def twice_v2(_request, body):
    asked = json.loads(body)
    tensor = asked["inputs"][0]
    rows = tensor["shape"][0]
    outputs = [
        {**tensor, "name": "Y", "data": [2 * x for x in tensor["data"]]},
        {"name": "N", "datatype": "INT64", "shape": [rows, 1], "data": [2**60] * rows},
    ]
    names = {each["name"] for each in asked.get("outputs", outputs)}
    return {"model_name": "m", "outputs": [each for each in outputs if each["name"] in names]}


def twice_binary(request, body):
    length = int(request.headers["Inference-Header-Content-Length"])
    asked = json.loads(body[:length])
    tensor = asked["inputs"][0]
    assert tensor["parameters"]["binary_data_size"] == len(body) - length
    rows = tensor["shape"][0]
    arrays = {
        "Y": ("FP32", 2 * np.frombuffer(body[length:], np.float32).reshape(tensor["shape"])),
        "N": ("INT64", np.full((rows, 1), 2**60, np.int64)),
    }
    outputs, contents = [], b""
    for each in asked["outputs"]:
        assert each["parameters"] == {"binary_data": True}
        datatype, array = arrays[each["name"]]
        outputs.append(
            {
                "name": each["name"],
                "datatype": datatype,
                "shape": list(array.shape),
                "parameters": {"binary_data_size": array.nbytes},
            }
        )
        contents += array.tobytes()
    head = json.dumps({"outputs": outputs}).encode()
    return web.Response(
        body=head + contents, headers={"Inference-Header-Content-Length": str(len(head))}
    )


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


def serve_v1(server):
    """Options of a model of the server in protocol v1."""
    server.answers |= {
        "/v1/models/contract": lambda *_: {"name": "contract", "ready": True},
        "/v1/models/contract:predict": twice,
    }
    return {"url": server.url, "protocol": "v1", **SPECS}


@pytest.fixture
def v1(server):
    return serve_v1(server)


@pytest.fixture
def v2(server):
    """Options of a model of the server in protocol v2, with JSON."""
    server.answers |= {
        "/v2": lambda *_: {"extensions": []},
        "/v2/models/contract": lambda *_: {"platform": "fake", **SPECS},
        "/v2/models/contract/ready": lambda *_: web.Response(),
        "/v2/models/contract/infer": twice_v2,
    }
    return {"url": server.url}


@pytest.fixture
def binary(server, v2):
    """Options of a model of the server in protocol v2, with tensors as bytes."""
    server.answers |= {
        "/v2": lambda *_: {"extensions": ["binary_tensor_data"]},
        "/v2/models/contract/infer": twice_binary,
    }
    return v2
