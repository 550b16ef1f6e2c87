"""The embeddings are those of a plain numpy forward pass: alone, in mixed batches, over the wire."""

import random

import numpy as np
import onnxruntime
import pytest

from batcher.config import load_config

pytestmark = pytest.mark.slow

CONFIG = "examples/minilm.yaml"


@pytest.fixture(scope="module")
def session(model_path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(model_path), options, providers=["CPUExecutionProvider"]
    )


def run(session, all_ids):
    """The embeddings of some token lists as one batch, padded to the longest of them."""
    length = max(map(len, all_ids))
    ids = np.zeros((len(all_ids), length), np.int64)
    mask = np.zeros_like(ids)
    for row, own in enumerate(all_ids):
        ids[row, : len(own)] = own
        mask[row, : len(own)] = 1
    return session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})[0]


def test_each_sentence_alone_without_padding(session, sentences, expected, assert_close):
    import tokens

    found = [run(session, [ids])[0] for ids in tokens.token_ids(sentences)]
    assert_close(np.stack(found), expected)


@pytest.mark.parametrize("size", [2, 7, 32])
def test_mixed_lengths_in_one_padded_batch(session, sentences, expected, assert_close, size):
    import tokens

    ids = tokens.token_ids(sentences)
    order = list(range(len(ids)))
    random.Random(size).shuffle(order)
    found = np.empty((len(ids), 384), np.float32)
    for start in range(0, len(order), size):
        places = order[start : start + size]
        found[places] = run(session, [ids[place] for place in places])
    assert_close(found, expected)


def test_masked_values_do_not_matter(session):
    ids = np.array([[101, 7592, 102, 0, 0]])
    mask = np.array([[1, 1, 1, 0, 0]])
    noise = np.array([[101, 7592, 102, 4242, 30521]])
    clean, noisy = (
        session.run(None, {"input_ids": each, "attention_mask": mask})[0] for each in (ids, noise)
    )
    np.testing.assert_allclose(noisy, clean, atol=1e-6)


def test_the_longest_sequence_and_an_all_zero_mask_stay_finite(session):
    ids = np.full((2, 512), 7592)
    mask = np.stack([np.ones(512, np.int64), np.zeros(512, np.int64)])
    found = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    assert np.linalg.norm(found[0]) == pytest.approx(1.0)
    assert np.isfinite(found).all()


@pytest.fixture
def served(serve, model_path, pytestconfig):
    """The example's own configuration, but for the model file and the listeners."""
    models = load_config(pytestconfig.rootpath / CONFIG).model_dump(mode="json")["models"]
    for each in models:
        each["options"]["path"] = str(model_path)
    return serve({"models": models})


async def test_through_the_server_many_in_flight(served, sentences, expected, assert_close):
    import tokens
    from client import Client

    async with Client(served.grpc) as client:
        found = await client.embed("minilm", tokens.encode(sentences), 48, lambda: None)
        batches = await client.batches("minilm")
    assert_close(found, expected)
    assert max(batches) > 1, "nothing was batched, so nothing was shown"
    assert sum(size * count for size, count in batches.items()) == len(sentences)


@pytest.mark.parametrize("in_flight", [1, 7, 48])
async def test_padding_by_the_server_changes_no_answer(served, session, sentences, in_flight):
    """Whatever a sentence was batched with, its answer is that of it alone, to 1e-5."""
    import tokens
    from client import Client

    alone = np.stack([run(session, [ids])[0] for ids in tokens.token_ids(sentences)])
    order = list(range(len(sentences)))
    random.Random(in_flight).shuffle(order)
    encoded = tokens.encode(sentences)
    async with Client(served.grpc) as client:
        shuffled = [encoded[place] for place in order]
        found = await client.embed("minilm", shuffled, in_flight, lambda: None)
    np.testing.assert_allclose(found, alone[order], rtol=0, atol=1e-5)


async def test_through_the_server_one_at_a_time_and_unbatched(
    served, sentences, expected, assert_close
):
    import tokens
    from client import Client

    some = slice(0, len(sentences), 4)
    encoded = tokens.encode(sentences[some])
    async with Client(served.grpc) as client:
        alone = await client.embed("minilm", encoded, 1, lambda: None)
        unbatched = await client.embed("minilm-unbatched", encoded, 16, lambda: None)
        batches = await client.batches("minilm-unbatched")
    assert_close(alone, expected[some])
    assert_close(unbatched, expected[some])
    assert set(batches) == {1}


async def test_a_split_request_gets_the_answers_of_an_unsplit_one(serve, model_path, pytestconfig):
    """96 sentences in one request: whole, in pieces of 16, and in pieces beside others."""
    import asyncio

    from grpc import aio

    from batcher import protocol
    from batcher.testing.messages import infer_request, output_arrays

    (first, *_) = load_config(pytestconfig.rootpath / CONFIG).model_dump(mode="json")["models"]
    first["options"]["path"] = str(model_path)
    whole = first | {"name": "whole", "batching": {"max_batch_size": 96}}
    split = first | {"name": "split", "batching": {"max_batch_size": 16}}
    for each in (whole, split):
        each["warmup"] = {"batch_sizes": []}
    served = serve({"models": [whole, split]})
    ids = np.random.default_rng(3).integers(1000, 30_000, (96, 12))
    ids[:, 0], ids[:, -1] = 101, 102

    def request(model, rows):
        return infer_request(
            model, {"input_ids": ids[rows], "attention_mask": np.ones_like(ids[rows])}
        )

    async with aio.insecure_channel(served.grpc) as channel:
        stub = protocol.Stub(channel, protocol.INFERENCE)

        async def embedding(model, rows):
            reply = await stub.ModelInfer(request(model, rows))
            return output_arrays(reply)["embedding"]

        unsplit = await embedding("whole", slice(0, 96))
        alone = await embedding("split", slice(0, 96))
        mixed, *others = await asyncio.gather(
            embedding("split", slice(0, 96)),
            *(embedding("split", slice(n, n + 1)) for n in range(40)),
        )
    assert np.abs(alone - unsplit).max() < 1e-5
    assert np.abs(mixed - unsplit).max() < 1e-5
    assert np.abs(np.concatenate(others) - unsplit[:40]).max() < 1e-5
