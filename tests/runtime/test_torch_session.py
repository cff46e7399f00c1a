"""Backend torch on the CPU: the session's answers are ONNX Runtime's, whatever the batch, the chunk and the rank."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from innerq_export import reference
from innerq_export.cli.main import cli
from innerq_export.engine.folder import read_manifest, write_manifest
from innerq_export.errors import ConfigError, EnvironmentMismatchError, OutOfMemoryError, UserError
from innerq_export.parity.torch_model import TorchModel
from innerq_export.runtime import OnnxRuntimeSession, TorchOptions, open_session
from innerq_export.runtime import torch_cache as torch_cache_module
from innerq_export.runtime.torch_model import load_model
from innerq_export.runtime.torch_session import TorchSession
from tests.engine.real import SMALL_WINDOW

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[2]
EXACT, NEAR = 1e-4, 0.15
"""Relative L2 of logits: fp32 against an oracle in fp32, and 16-bit activations against ONNX Runtime's, where rounding
moves a value to the next code now and then. The mutation below shows what EXACT sees."""
WIDEST = 0.04
FLOAT = TorchOptions(dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(1)
    return [random.integers(0, 255, count).tolist() for count in (150, 7, 40)]


class Oracle:
    """transformers' model in fp32 whose attention is the reference's Append and Attend, layer by layer."""

    def __init__(self, checkpoint, batch):
        self.model, self.shape = TorchModel(checkpoint.folder, "float32"), checkpoint.shape
        self.caches = [
            reference.empty_cache(SMALL_WINDOW, batch, self.shape.kv_heads, self.shape.head_dim, 16, torch.float32)
            for _ in range(self.shape.layers)
        ]

    def add(self, pieces):
        news = torch.tensor([len(piece) for piece in pieces], dtype=torch.int32)
        pasts = self.caches[0].length_B
        ids = torch.zeros(len(pieces), max(1, int(news.max())), dtype=torch.int64)
        for row, piece in zip(ids, pieces, strict=True):
            row[: len(piece)] = torch.tensor(piece, dtype=torch.int64)

        def attention(layer, query, key, value, scale):
            self.caches[layer] = reference.append(self.caches[layer], key, value, news)
            return reference.attend(self.caches[layer], query, key, value, pasts, news, scale)

        position = pasts[:, None] + torch.arange(ids.shape[1])
        logits = self.model.with_attention(ids, position, attention)
        return logits[torch.arange(len(pieces)), (news - 1).clamp(min=0).long()].numpy()

    def prefill(self, rows, chunk=None):
        size = chunk or max(map(len, rows))
        logits = None
        for start in range(0, max(map(len, rows)), size):
            pieces = [row[start : start + size] for row in rows]
            found = self.add(pieces)
            logits = found if logits is None else np.where([[bool(piece)] for piece in pieces], found, logits)
        return logits

    def decode(self, tokens):
        return self.add([[] if token is None else [token] for token in tokens])


def decoded(session, rows, chunk=None):
    """Logits [step, B, V] after the prompts and after six more tokens each; sequence 1 rests once."""
    logits = [session.prefill(rows, chunk)]
    for step in range(6):
        logits.append(session.decode([step, None if step == 2 else step + 5, 200 - step]))
    return np.stack(logits)


def error(got, expected):
    """Largest relative L2 over steps and sequences, without the one that rested."""
    errors = np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    if len(errors) > 3:
        errors[3, 1] = 0
    return errors.max()


@pytest.fixture(scope="module")
def expected(tiny_checkpoint, rows):
    return decoded(Oracle(tiny_checkpoint, 3), rows)


@pytest.fixture(scope="module")
def session(tiny_engine):
    return TorchSession(tiny_engine, FLOAT, batch=3, threads=1)


def test_logits_are_the_references(session, rows, expected):
    session.reset()
    assert error(decoded(session, rows), expected) < EXACT
    assert session.length_B.tolist() == [156, 12, 46]


@pytest.mark.parametrize("chunk", [17, 64])
def test_a_chunked_prefill_is_the_references(session, tiny_checkpoint, rows, chunk):
    session.reset()
    assert error(decoded(session, rows, chunk), decoded(Oracle(tiny_checkpoint, 3), rows, chunk)) < EXACT


def test_the_tolerance_sees_one_step_of_one_code(session, rows, expected):
    session.reset()
    first = session.prefill(rows)
    session.cache(0)["blocks"][0, 0, 1, 5] ^= 1
    changed = session.decode([0, 5, 200])
    assert error(first[None], expected[:1]) < EXACT < error(changed[None], expected[1:2])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_kernels_and_reference_give_onnx_runtimes_logits(tiny_engine, rows, dtype, monkeypatch):
    theirs = decoded(OnnxRuntimeSession(tiny_engine, batch=3, threads=1), rows)
    mine = TorchSession(tiny_engine, TorchOptions(dtype=dtype, device="cpu"), batch=3, threads=1)
    assert mine.cache(0)["window"].dtype == getattr(torch, dtype)
    with_library = decoded(mine, rows)
    monkeypatch.setattr(torch_cache_module, "library_for", lambda device, dtype: None)
    mine.reset()
    near = NEAR if dtype == "float16" else 3 * NEAR
    assert error(with_library, theirs) < near
    assert error(decoded(mine, rows), theirs) < near


def test_greedy_tokens_without_logits_are_the_argmax_of_them(session, rows):
    session.reset()
    expected = decoded(session, rows)[1:].argmax(-1)
    session.reset()
    session.prefill(rows)
    for step, wanted in enumerate(expected):
        got = session.decode_greedy([step, None if step == 2 else step + 5, 200 - step])
        assert [got[0], got[2]] == [wanted[0], wanted[2]]
    assert session.length_B.tolist() == [156, 12, 46]
    with pytest.raises(ConfigError, match="vocabulary"):
        session.decode_greedy([1, 2, 10**6])
    with pytest.raises(ConfigError, match="fit the session"):
        session.decode_greedy([1])
    assert session.length_B.tolist() == [156, 12, 46]


def test_the_cache_grows_and_keeps_what_it_held(session):
    session.reset(1)
    session.prefill([list(range(100))])
    small = session.cache_bytes
    before = session.cache(1)["blocks"][:, :, :2].clone()
    session.prefill([[7] * 250])
    assert session.cache_bytes > small
    assert torch.equal(session.cache(1)["blocks"][:, :, :2], before)
    session.reset(3)
    assert session.length_B.tolist() == [0, 0, 0]


def test_a_dropped_token_is_never_passed_over(tiny_engine, monkeypatch):
    session = TorchSession(tiny_engine, TorchOptions(dtype="float16", device="cpu"), batch=1, threads=1)
    monkeypatch.setattr(session, "_make_room", lambda longest: None)
    if session._decoder.cache._library is None:
        pytest.skip("the reference raises by itself")
    session.prefill([[7] * 260])
    with pytest.raises(UserError, match="no room"):
        for _ in range(60):
            session.decode_greedy([7])


@pytest.fixture
def pair(tiny_engine):
    session = open_session(tiny_engine, "torch", batch=3, threads=1, torch_options=replace(FLOAT, tp=2))
    yield session
    session.close()


def test_two_ranks_are_one(pair, tiny_engine, rows, expected):
    assert pair.cache(0)["window"].shape[2] == 1
    assert error(decoded(pair, rows), expected) < EXACT
    pair.reset(1)
    pair.prefill([[7] * 300])
    with pytest.raises(ConfigError, match="already") as refused:
        TorchSession(tiny_engine, replace(FLOAT, tp=2))
    assert "close()" in str(refused.value)


def test_slices_of_the_other_rank_are_seen(pair, tiny_checkpoint, rows, expected):
    """By the tolerances on cards too, which are no wider than WIDEST."""
    whole, _ = load_model(tiny_checkpoint, torch.float32, torch.device("cpu"))
    wrong = {}
    for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        path = f"model.layers.1.{'self_attn' if name in 'q_proj k_proj v_proj o_proj' else 'mlp'}.{name}.weight"
        weight, axis = pair._decoder._model.get_parameter(path), int(name in ("o_proj", "down_proj"))
        held = weight.clone()
        with torch.no_grad():
            weight.copy_(whole.get_parameter(path).chunk(2, axis)[1])
            pair.reset(3)
            wrong[name] = error(decoded(pair, rows), expected)
            weight.copy_(held)
    assert min(wrong.values()) > WIDEST, wrong


@pytest.fixture
def two_ranks(tiny_engine):
    session = TorchSession(tiny_engine, TorchOptions(tp=2, device="cpu"), threads=1)
    yield session
    session.close()


def test_a_rank_that_died_is_said(two_ranks):
    process = two_ranks._ranks._processes[0]
    process.kill()
    process.join()
    with pytest.raises(UserError, match="rank 1 failed") as error:
        two_ranks.decode([1])
    assert "the process ended" in str(error.value)


def test_a_rank_that_fails_in_a_step_is_said_in_its_own_words(two_ranks):
    two_ranks._ranks.tell("step", "no", "such", "arguments")
    with pytest.raises(UserError, match="rank 1 failed") as error:
        two_ranks.decode_greedy([1])
    assert "str" in str(error.value)


def test_a_session_over_ranks_ends_with_rank_0s_failure(two_ranks, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(two_ranks._decoder, "step", full)
    with pytest.raises(OutOfMemoryError, match="too small for this step"):
        two_ranks.decode([1])
    with pytest.raises(UserError, match="rank 0 failed"):
        two_ranks.decode([1])


def test_closing_ends_the_processes(two_ranks):
    processes = list(two_ranks._ranks._processes)
    two_ranks.close()
    two_ranks.close()
    assert [process.exitcode for process in processes] == [0]
    with pytest.raises(UserError, match="the session is closed"):
        two_ranks.decode([1])


@pytest.mark.parametrize(
    ("options", "what"),
    [({"tp": 3}, "does not divide the heads"), ({"dtype": "fp16"}, "unknown dtype"), ({"tp": 0}, "impossible --tp")],
)
def test_options_that_cannot_hold(tiny_engine, options, what):
    with pytest.raises(ConfigError, match=what):
        TorchSession(tiny_engine, TorchOptions(device="cpu", **options), threads=1)


def test_options_of_torch_are_refused_elsewhere(tiny_engine):
    with pytest.raises(ConfigError, match=r"options of backend 'torch' given to 'onnxruntime'\n  got:      tp 2\n"):
        open_session(tiny_engine, "onnxruntime", torch_options=TorchOptions(tp=2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a card")
def test_a_card_that_is_not_there(tiny_engine):
    with pytest.raises(EnvironmentMismatchError, match="torch cannot use a card"):
        TorchSession(tiny_engine, TorchOptions(device="cuda"))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"source_digest": "0" * 64}, "is not the checkpoint"),
        ({"source": "model.onnx"}, "needs a checkpoint"),
        ({"source": "gone/away"}, "gone/away"),
    ],
)
def test_a_source_that_will_not_do(tiny_engine, tmp_path, monkeypatch, changes, what):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "engine"
    shutil.copytree(tiny_engine, folder)
    write_manifest(folder, read_manifest(folder).replace(**changes))
    with pytest.raises(UserError, match=what):
        TorchSession(folder)


def test_the_example_of_the_docs_runs(tiny_engine, tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "decode.md").read_text(), re.S)
    shutil.copytree(tiny_engine, tmp_path / "engines" / "demo")
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    assert capsys.readouterr().out.startswith("[37 40]")


def test_run_streams_from_the_command_line(tiny_engine):
    words = ["run", str(tiny_engine), "--backend", "torch", "--device", "cpu", "--threads", "1", "--ignore-eos"]
    words += ["--max-new-tokens", "12", "--prompt", "abc", "--format", "json"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    theirs = OnnxRuntimeSession(tiny_engine, threads=1)
    tokens = [256, *b"abc"]
    theirs.prefill([tokens[:-1]])
    for _ in range(12):
        tokens.append(int(theirs.decode([tokens[-1]]).argmax()))
    assert told["results"][0]["tokens"] == tokens[4:]
    assert told["usage"]["decode_tokens"] == 11


def test_a_card_left_idle_is_said(tiny_engine, monkeypatch, capfd):
    from innerq_export.engine import card

    monkeypatch.setattr(card, "first_card", lambda: card.Card("a card", "9.0", "13.0"))
    result = CliRunner().invoke(cli, ["run", str(tiny_engine), "--prompt", "a", "--max-new-tokens", "1"])
    assert result.exit_code == 0, result.output
    assert "--backend torch would use a card" in result.stderr + capfd.readouterr().err


def test_help_names_the_backend_and_its_options():
    text = CliRunner().invoke(cli, ["run", "--help"]).output
    assert all(word in text for word in ("torch", "--tp", "--dtype", "--device", "--compile"))
