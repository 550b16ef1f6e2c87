"""The Huffman code of header strings (RFC 7541, section 5.2 and appendix B), decoded a byte at a time.

The code is a binary tree. A step goes from a node along the bits of one byte to another node, and passes
symbols on its way. Each is computed when it is first needed and kept: 65,536 at most.
"""

from __future__ import annotations

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

_END_OF_STRING = 256
_MAX_PADDING = 7
"""Bits behind the last symbol, all of them 1."""


def decode_huffman(text: bytes) -> bytes:
    """Decode a string. Raises ValueError where it is not valid."""
    steps, node = _steps, 0
    parts = []
    for byte in text:
        step = steps.get(node | byte)
        if step is None:
            step = steps[node | byte] = _step(node >> 8, byte)
        node, symbols = step
        parts.append(symbols)
    if node not in _PADDED:
        raise ValueError("the string ends within a symbol")
    return b"".join(parts)


def _step(node: int, byte: int) -> tuple[int, bytes]:
    """The step from a node along the bits of a byte: the next node, shifted by 8 bits, and symbols."""
    symbols = bytearray()
    for place in range(7, -1, -1):
        node = _tree[node][byte >> place & 1]
        if node <= 0:
            if -node == _END_OF_STRING:
                raise ValueError("the string holds the symbol for its end")
            symbols.append(-node)
            node = 0
    return node << 8, bytes(symbols)


def _build_tree() -> list[list[int]]:
    """The tree: for each inner node its two children. A leaf is its symbol, negated."""
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


_tree = _build_tree()
_steps: dict[int, tuple[int, bytes]] = {}


def _padded() -> frozenset[int]:
    """The nodes where a string may end: behind a symbol and up to 7 bits of padding."""
    nodes = [0]
    for _ in range(_MAX_PADDING):
        nodes.append(_tree[nodes[-1]][1])
    return frozenset(node << 8 for node in nodes)


_PADDED = _padded()
