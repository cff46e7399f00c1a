"""The session's own work, on a model whose every output can be foretold: lengths, padding, growth, in-place cache."""

import numpy as np
import pytest

from innerq_export.errors import ConfigError
from innerq_export.runtime import OnnxRuntimeSession
from innerq_export.runtime.buffers import part_of
from tests.engine.toy import CACHE, SHAPE, VOCAB, toy_engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_engine(tmp_path_factory.mktemp("session") / "engine")


def expected(tokens):
    return (tokens[-1] + len(tokens) - 1) % VOCAB


def test_ragged_prompts_and_tokens_that_rest(folder):
    session = OnnxRuntimeSession(folder, batch=2, threads=1)
    rows = [[5, 6, 7], [9]]
    logits_BV = session.prefill(rows)
    assert logits_BV.shape == (2, VOCAB)
    assert logits_BV.dtype == np.float32
    assert logits_BV.argmax(-1).tolist() == [expected(row) for row in rows]
    rows[0].append(11)
    assert session.decode([11, None]).argmax(-1)[0] == expected(rows[0])
    assert session.length_B.tolist() == [4, 1]
    assert session.cache(0)["window"][:, 0, 0, 0, 0].tolist() == [4, 1]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
def test_a_chunked_prefill_ends_where_a_whole_one_ends(folder, chunk):
    session = OnnxRuntimeSession(folder, batch=3, threads=1)
    rows = [[5, 6, 7, 8, 9, 10, 11], [9], [3, 4, 5]]
    logits_BV = session.prefill(rows, chunk=chunk)
    assert logits_BV.argmax(-1).tolist() == [expected(row) for row in rows]
    assert session.length_B.tolist() == [7, 1, 3]


def test_a_chunked_prefill_that_does_not_fit_changes_nothing(folder):
    session = OnnxRuntimeSession(folder, batch=2, threads=1)
    for prompts in ([[1] * (SHAPE.max_positions + 1), [1]], [[1, 2, 3]], []):
        with pytest.raises(ConfigError):
            session.prefill(prompts, chunk=2)
        assert session.length_B.tolist() == [0, 0]


def test_a_fresh_cache_is_zero_with_norms_of_one(folder):
    cache = OnnxRuntimeSession(folder).cache(0)
    assert set(cache) == {"window", "key_norm", "key_codes", "key_scales", "value_codes", "value_scales"}
    assert (cache["key_norm"] == 1).all()
    assert not any(array.any() for name, array in cache.items() if name != "key_norm")


def test_reset_forgets_and_changes_the_batch(folder):
    session = OnnxRuntimeSession(folder)
    session.prefill([[1, 2]])
    session.reset(3)
    assert session.length_B.tolist() == [0, 0, 0]
    assert session.cache(0)["window"].shape[0] == 3
    assert not session.cache(0)["window"].any()


def test_steps_write_into_the_same_memory(folder):
    session = OnnxRuntimeSession(folder)
    window = session.cache(0)["window"]
    session.prefill([[1, 2]])
    session.decode([3])
    assert session.cache(0)["window"] is window
    assert (window == 3).all()


def test_the_capacity_doubles_and_the_contents_stay(folder):
    session = OnnxRuntimeSession(folder)
    before = session.cache(0)["key_codes"]
    before[:] = np.arange(before.size).reshape(before.shape) % 100
    held = before.copy()
    session.prefill([[1] * (CACHE.sink + CACHE.recent + 32 * 9)])
    after = session.cache(0)["key_codes"]
    assert after.shape[2] == 16
    assert (after[:, :, :8] == held).all()
    assert not after[:, :, 8:].any()
    session.decode([1])
    assert session.cache(0)["key_codes"] is after


def test_a_jump_beyond_the_double_is_taken_at_once_and_the_limit_is_kept(folder):
    session = OnnxRuntimeSession(folder)
    session.prefill([[1] * SHAPE.max_positions])
    assert session.cache(0)["key_codes"].shape[2] == (SHAPE.max_positions - CACHE.sink - CACHE.recent) // 32
    with pytest.raises(ConfigError, match="at most 4096 tokens"):
        session.decode([1])
    assert session.length_B.tolist() == [SHAPE.max_positions]


def test_cache_bytes_count_every_buffer(folder):
    session = OnnxRuntimeSession(folder)
    assert session.cache_bytes == sum(array.nbytes for array in session.cache(0).values())


@pytest.mark.parametrize(
    ("ids", "new_length", "message"),
    [
        ([[1]], [1], "tokens do not fit"),
        ([1, 2], [1, 1], "tokens do not fit"),
        ([[1], [2]], [[1], [1]], "tokens do not fit"),
        ([[1], [2]], [2, 1], "impossible new_length"),
        ([[1], [2]], [-1, 1], "impossible new_length"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_and_nothing_changes(folder, ids, new_length, message):
    session = OnnxRuntimeSession(folder, batch=2)
    with pytest.raises(ConfigError, match=message):
        session.step(np.array(ids), np.array(new_length))
    assert session.length_B.tolist() == [0, 0]


def test_tokens_outside_the_vocabulary_are_refused(folder):
    session = OnnxRuntimeSession(folder)
    for token in (-1, VOCAB):
        with pytest.raises(ConfigError, match="vocabulary"):
            session.prefill([[token]])


def test_no_sequence_is_refused(folder):
    with pytest.raises(ConfigError, match="at least one sequence"):
        OnnxRuntimeSession(folder, batch=0)


def test_values_of_the_graph_can_be_watched(folder):
    session = OnnxRuntimeSession(folder, batch=2, extra_outputs=["sum_B"])
    session.prefill([[5, 6, 7], [9]])
    assert session.extra["sum_B"].tolist() == [9, 9]
    with pytest.raises(ConfigError, match="did you mean 'sum_B'"):
        OnnxRuntimeSession(folder, extra_outputs=["sum_b"])


def test_part_of_a_name():
    assert part_of("past_key_codes_31") == "key_codes"
