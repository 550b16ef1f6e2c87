"""`tritonclient.grpc` on the admin listener, where models may be changed: python admin.py ADDRESS."""

import sys

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


if __name__ == "__main__":
    with triton.InferenceServerClient(sys.argv[1]) as connected:
        check.run(connected)
