"""The example's model, built once; its modules are scripts, so their folder goes on the path."""

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "minilm"
sys.path.insert(0, str(EXAMPLE))

EDGES = (
    "",
    "?",
    "Rust",
    "Schönes Wetter für Jörg, déjà vu, 東京, and a 🙂",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "a sentence that is cut, because it goes on and on " * 15,
)
"""No token of its own, one token, odd letters, many pieces of one word, more than 128 tokens."""


@pytest.fixture(scope="session")
def model_path(tmp_path_factory):
    import model

    return model.ensure(tmp_path_factory.mktemp("minilm") / "minilm.onnx", say=print)


@pytest.fixture(scope="session")
def sentences():
    """Every eighth sentence of the demo's document, and the edges."""
    import document

    return [*document.read(document.DEFAULT, most=1000).lines[::8], *EDGES]


@pytest.fixture(scope="session")
def expected(sentences):
    """The embedding of every sentence by the numpy reference, `[sentences, 384]`."""
    import reference
    import tokens

    # In a process of its own: BLAS threads that spin for a busy core make small products six times
    # slower, and only the environment of a new process can turn them off.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(reference.embed_all, tokens.token_ids(sentences)).result()


@pytest.fixture(scope="session")
def assert_close():
    """Every row of length 1 and within a cosine of 0.9999 of the expected one."""
    import numpy as np

    def check(found, expected):
        lengths = np.linalg.norm(found.astype(np.float64), axis=1)
        cosines = (found * expected).sum(axis=1) / lengths
        assert np.abs(lengths - 1).max() < 1e-5
        assert cosines.min() > 0.9999

    return check
