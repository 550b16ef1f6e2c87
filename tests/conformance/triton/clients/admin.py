"""`tritonclient.grpc` on the admin listener, where models may be changed: python admin.py ADDRESS MODEL.onnx."""

import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from checks import Checks
from tensors import row

check = Checks()


@check
def extensions(client):
    return client.get_server_metadata(as_json=True)["extensions"]


@check
def unload(client):
    client.unload_model("hello")
    return client.is_model_ready("hello")


@check
def index_of_an_unloaded_model(client):
    models = client.get_model_repository_index(as_json=True)["models"]
    return next(model for model in models if model["name"] == "hello")


@check
def infer_when_unloaded(client):
    return client.infer("hello", [row()]).get_response(as_json=True)


@check
def load(client):
    client.load_model("hello")
    return client.is_model_ready("hello")


@check
def infer_when_loaded_again(client):
    return list(client.infer("hello", [row()]).as_numpy("Y").shape)


@check
def load_an_unknown_model(client):
    return client.load_model("missing")


CONFIG = {"platform": "onnxruntime_onnx", "max_batch_size": 3, "dynamic_batching": {}}


def negative(client, name):
    x = triton.InferInput("X", [1, 4], "FP32")
    x.set_data_from_numpy(np.ones((1, 4), np.float32))
    return client.infer(name, [x]).as_numpy("Y")[0].tolist()


@check
def index_before(client):
    models = client.get_model_repository_index(as_json=True)["models"]
    return next(model for model in models if model["name"] == "stored")


@check
def load_from_the_repository(client):
    client.load_model("stored")
    return negative(client, "stored")


@check
def load_with_a_configuration(client):
    client.load_model("stored", config=json.dumps(CONFIG))
    return str(client.get_model_config("stored", as_json=True)["config"]["max_batch_size"])


@check
def load_with_a_wrong_configuration(client):
    client.load_model("stored", config=json.dumps(CONFIG | {"max_batch_size": -1}))


@check
def it_still_serves(client):
    return negative(client, "stored")


@check
def load_with_files(client):
    files = {"file:4/model.onnx": Path(sys.argv[2]).read_bytes()}
    client.load_model("brought", config=json.dumps(CONFIG), files=files)
    return negative(client, "brought")


@check
def unload_what_had_files(client):
    client.unload_model("brought")
    return client.is_model_ready("brought")


@check
def unload_what_is_stored(client):
    client.unload_model("stored")
    return client.is_model_ready("stored")


if __name__ == "__main__":
    with triton.InferenceServerClient(sys.argv[1]) as connected:
        check.run(connected)
