"""The Huffman code of header texts (RFC 7541, section 5.2 and appendix B), read a byte at a time.

The code is a binary tree. For each node of it and each byte, where the byte's bits lead and which
symbols they pass is worked out once, when it is first needed: at most 65,536 steps.
"""

from __future__ import annotations

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

_END_OF_STRING = 256
_LONGEST_PADDING = 7
"""Bits, each of them 1."""


def decode_huffman(text: bytes) -> bytes:
    """What the code stands for. Raises ValueError where it is none."""
    steps, node = _steps, 0
    parts = []
    for byte in text:
        step = steps.get(node | byte)
        if step is None:
            step = steps[node | byte] = _step(node >> 8, byte)
        node, symbols = step
        parts.append(symbols)
    if node not in _PADDED:
        raise ValueError("the code ends within a symbol")
    return b"".join(parts)


def _step(node: int, byte: int) -> tuple[int, bytes]:
    """From a node along the bits of a byte: the next node, 8 bits further left, and symbols."""
    symbols = bytearray()
    for place in range(7, -1, -1):
        node = _tree[node][byte >> place & 1]
        if node <= 0:
            if -node == _END_OF_STRING:
                raise ValueError("the code holds its end")
            symbols.append(-node)
            node = 0
    return node << 8, bytes(symbols)


def _plant() -> list[list[int]]:
    """The tree: of each inner node both children, where a leaf is its symbol below 0, or 0."""
    tree = [[0, 0]]
    for symbol, (code, length) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)):
        node = 0
        for place in range(length - 1, 0, -1):
            bit = code >> place & 1
            if not tree[node][bit]:
                tree.append([0, 0])
                tree[node][bit] = len(tree) - 1
            node = tree[node][bit]
        tree[node][code & 1] = -symbol
    return tree


_tree = _plant()
_steps: dict[int, tuple[int, bytes]] = {}


def _padded() -> frozenset[int]:
    """Where a text may end: behind a symbol, or a few bits of the code's end."""
    nodes = [0]
    for _ in range(_LONGEST_PADDING):
        nodes.append(_tree[nodes[-1]][1])
    return frozenset(node << 8 for node in nodes)


_PADDED = _padded()
