"""The two models of the benchmark, with random weights: of the size of ResNet-50, and of BERT-base.

The executor `torch` makes them by the factories `resnet` and `encoder`, and so does the loop that the
server is compared with. Random weights take as long as trained ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
EXPANSION: Final = 4


class Block(nn.Module):
    """A bottleneck: 1 x 1, 3 x 3 and 1 x 1 convolutions beside a short cut."""

    def __init__(self, planes_in: int, planes: int, stride: int) -> None:
        super().__init__()
        planes_out = planes * EXPANSION
        self.body = nn.Sequential(
            *(nn.Conv2d(planes_in, planes, 1, bias=False), nn.BatchNorm2d(planes), nn.ReLU()),
            nn.Conv2d(planes, planes, 3, stride, 1, bias=False),
            *(nn.BatchNorm2d(planes), nn.ReLU()),
            *(nn.Conv2d(planes, planes_out, 1, bias=False), nn.BatchNorm2d(planes_out)),
        )
        self.cut: nn.Module = nn.Identity()
        if stride != 1 or planes_in != planes_out:
            self.cut = nn.Sequential(
                nn.Conv2d(planes_in, planes_out, 1, stride, bias=False), nn.BatchNorm2d(planes_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """The block's answer."""
        return functional.relu(self.body(x) + self.cut(x))


class ResNet(nn.Module):
    """Images as bytes, [rows, 3, side, side], to scores, [rows, classes]."""

    def __init__(self, blocks: tuple[int, ...], width: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *(nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            nn.MaxPool2d(3, 2, 1),
        )
        stages: list[nn.Module] = []
        planes_in = width
        for stage, count in enumerate(blocks):
            planes = width << stage
            for place in range(count):
                stages.append(Block(planes_in, planes, 2 if stage and not place else 1))
                planes_in = planes * EXPANSION
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(planes_in, classes)

    def forward(self, image: Tensor) -> Tensor:
        """The scores."""
        x = (image.to(self.head.weight.dtype) - 127.0) / 64.0
        return self.head(self.stages(self.stem(x)).mean((2, 3))).float()


class Layer(nn.Module):
    """Attention and a feed-forward part, each added to what goes in and normalized."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attend = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """The layer's answer."""
        rows, length, width = x.shape
        split = self.attend(x).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = self.norms[0](x + self.join(seen.transpose(1, 2).reshape(rows, length, width)))
        return self.norms[1](x + self.down(functional.gelu(self.up(x))))


class Encoder(nn.Module):
    """Token ids and their mask, [rows, length], to one vector a row, [rows, width]."""

    def __init__(self, layers: int, width: int, heads: int, vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList([Layer(width, heads) for _ in range(layers)])
        self.pool = nn.Linear(width, width)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The vectors."""
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.tokens(ids) + self.places(places))
        attended = (mask != 0)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, attended)
        return torch.tanh(self.pool(x[:, 0])).float()


@dataclass(frozen=True, slots=True)
class Kind:
    """A model of the benchmark, and what goes in and comes out of it."""

    name: str
    args: dict[str, Any]
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    """Name, datatype and the shape of one row."""
    output: tuple[str, int]
    """Name and length of what comes out for each row, FP32."""
    below: int
    """Values of the inputs are from 0 to this, exclusive."""
    rows_per_request: int
    """Rows of one request of the load: enough that the load costs little, and few of the largest batch."""
    images: bool = False

    def options(self, source: str, dtype: str) -> dict[str, Any]:
        """The options that the executor `torch` makes it with. `source` is the path of this file."""
        name, length = self.output
        return {
            "factory": f"{source}:{self.name}",
            "args": {**self.args, "dtype": dtype},
            "inputs": [
                {"name": n, "datatype": d, "shape": [-1, *shape]} for n, d, shape in self.inputs
            ],
            "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, length]}],
            "channels_last": self.images,
        }


def resnet(blocks: list[int], width: int, classes: int, dtype: str) -> nn.Module:
    """The network for images, in that precision."""
    torch.manual_seed(0)
    return ResNet(tuple(blocks), width, classes).to(DTYPES[dtype])


def encoder(layers: int, width: int, heads: int, vocabulary: int, dtype: str) -> nn.Module:
    """The network for texts, in that precision."""
    torch.manual_seed(0)
    return Encoder(layers, width, heads, vocabulary).to(DTYPES[dtype])


def kinds(*, tiny: bool) -> tuple[Kind, ...]:
    """Both models; `tiny` ones take milliseconds on a CPU and show only that everything works."""
    side, length = (32, 16) if tiny else (224, 128)
    blocks, images = ([1, 1, 1, 1], 8) if tiny else ([3, 4, 6, 3], 64)
    layers, width, heads, words = (2, 32, 2, 100) if tiny else (12, 768, 12, 30522)
    classes = 10 if tiny else 1000
    of_images = {"blocks": blocks, "width": images, "classes": classes}
    of_texts = {"layers": layers, "width": width, "heads": heads, "vocabulary": words}
    tokens = (("ids", "INT64", (length,)), ("mask", "INT64", (length,)))
    return (
        Kind(
            "resnet",
            of_images,
            (("image", "UINT8", (3, side, side)),),
            ("scores", classes),
            256,
            rows_per_request=8,
            images=True,
        ),
        Kind("encoder", of_texts, tokens, ("vector", width), words, rows_per_request=8),
    )
