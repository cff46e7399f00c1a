"""The session on a real decoder: updating in place, growing, batching and padding change no bit of the cache."""

import numpy as np
import pytest

from innerq_export.runtime import GenerateOptions, OnnxRuntimeSession, generate, load_tokenizer
from innerq_export.runtime.buffers import PAST, PRESENT
from tests.engine.real import SMALL_WINDOW

LENGTH = SMALL_WINDOW.sink + SMALL_WINDOW.recent + 3 * 32


@pytest.fixture(scope="module")
def tokens(tiny_checkpoint):
    return np.random.default_rng(0).integers(0, 256, LENGTH + 60).tolist()


def contents(session, row=0):
    layers = range(session.manifest.model.layers)
    return {(layer, part): array[row].copy() for layer in layers for part, array in session.cache(layer).items()}


def run(session, tokens, prompt=LENGTH):
    session.reset(1)
    logits = [session.prefill([tokens[:prompt]])]
    return np.concatenate([*logits, *(session.decode([token]) for token in tokens[prompt:])])


def test_in_place_is_bit_equal_to_fresh_buffers(tiny_engine, tokens):
    """The same steps without binding: ONNX Runtime then writes every present_* into memory of its own."""
    session = OnnxRuntimeSession(tiny_engine, threads=1)
    bound = run(session, tokens)
    cache, plain, length = {}, [], 0
    session.reset(1)
    session._make_room(len(tokens))
    arrays = {name: array.copy() for name, array in session._buffers.arrays.items()}
    outputs = [output.name for output in session._model.get_outputs()]
    for piece in [tokens[:LENGTH], *([token] for token in tokens[LENGTH:])]:
        feeds = {
            "input_ids": np.array([piece], np.int64),
            "position_ids": np.arange(length, length + len(piece), dtype=np.int64)[None],
            "past_length": np.array([length], np.int32),
            "new_length": np.array([len(piece)], np.int32),
        }
        cache = dict(zip(outputs, session._model.run(outputs, feeds | arrays), strict=True))
        plain.append(cache.pop("logits")[:, -1])
        arrays = {name.replace(PRESENT, PAST, 1): array for name, array in cache.items()}
        length += len(piece)
    assert np.array_equal(bound, np.concatenate(plain).astype(np.float32))
    run(session, tokens)
    for name, array in session._buffers.arrays.items():
        assert np.array_equal(array, arrays[name]), name


def test_growing_changes_nothing(tiny_engine, tokens):
    small, large = OnnxRuntimeSession(tiny_engine, threads=1), OnnxRuntimeSession(tiny_engine, threads=1)
    large.reset(1)
    large._buffers.grow(16)
    small.prefill([tokens[:10]])
    large.prefill([tokens[:10]])
    for token in tokens[10:]:
        small.decode([token])
        large.decode([token])
    blocks = (len(tokens) - SMALL_WINDOW.sink - SMALL_WINDOW.recent) // 32
    grown, spacious = contents(small), contents(large)
    for key in grown:
        used = slice(None) if key[1] in ("window", "key_norm") else slice(blocks)
        assert np.array_equal(grown[key][:, used], spacious[key][:, used]), key


def test_a_ragged_batch_holds_what_each_sequence_holds_alone(tiny_engine, tokens):
    rows = [tokens[:LENGTH], tokens[30:70]]
    batch = OnnxRuntimeSession(tiny_engine, batch=2, threads=1)
    batch.prefill(rows)
    for step in range(40):
        batch.decode([tokens[LENGTH + step], tokens[70 + step] if step % 2 else None])
    for index, row in enumerate([tokens[: LENGTH + 40], rows[1] + [tokens[70 + step] for step in range(1, 40, 2)]]):
        alone = OnnxRuntimeSession(tiny_engine, threads=1)
        alone.prefill([row[: len(rows[index])]])
        for token in row[len(rows[index]) :]:
            alone.decode([token])
        assert batch.length_B[index] == alone.length_B[0]
        for key, array in contents(alone).items():
            found = contents(batch, index)[key]
            assert same(array, found), (index, key)


def same(alone, found):
    """Codes may differ where a product of another batch size rounds a value to its neighbour: never by more."""
    if alone.dtype == np.int8:
        return (np.abs(alone.astype(int) - found) <= 1).all() and (alone != found).mean() < 0.01
    return np.allclose(alone.astype(np.float32), found.astype(np.float32), rtol=2e-2, atol=2e-2)


def test_text_comes_out_and_greedy_repeats_itself(tiny_engine):
    session, tokenizer = OnnxRuntimeSession(tiny_engine), load_tokenizer(tiny_engine)
    first, second = (list(generate(session, tokenizer, "Hello", GenerateOptions(40, ignore_eos=True))) for _ in "ab")
    assert first[-2] == second[-2]
    assert len(first[-2].tokens) == 40


def test_a_changed_cache_changes_the_logits(tiny_engine, tokens):
    """The blocks are really read: without this, a session that dropped them would pass everything above."""
    session = OnnxRuntimeSession(tiny_engine, threads=1)
    run(session, tokens)
    first = session.decode([1])
    run(session, tokens)
    session.cache(0)["value_codes"][:, :, :2] = 3
    assert not np.allclose(session.decode([1]), first, atol=1e-2)
