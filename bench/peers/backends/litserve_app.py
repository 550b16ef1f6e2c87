"""LitServe: an API with `batch` and `unbatch`. Started as a program with its settings as JSON."""

import json
import sys

import litserve
import numpy as np
from emulated_device import Device


class Doubling(litserve.LitAPI):
    """Its API."""

    def setup(self, device):
        """Open the device."""
        del device
        self.emulated = Device()

    def decode_request(self, request):
        """The row of one request."""
        return request["x"]

    def batch(self, inputs):
        """FP32 [rows, 16]."""
        return np.array(inputs, np.float32)

    def predict(self, x):
        """One batch on the device."""
        return self.emulated.run(x)

    def unbatch(self, output):
        """A row for each request."""
        return output.tolist()

    def encode_response(self, output):
        """The answer of one request."""
        return {"y": output}


def main():
    """Serve until SIGTERM."""
    settings = json.loads(sys.argv[1])
    api = Doubling(max_batch_size=settings["rows"], batch_timeout=settings["wait_s"])
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=settings["workers"],
        fast_queue=settings["fast_queue"],
    )
    server.run(
        host="127.0.0.1",
        port=settings["port"],
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
