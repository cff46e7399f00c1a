"""Compiling and capturing are told apart from decoding, and change no token; here without a compiler and a card."""

from __future__ import annotations

import json
import time

import pytest
import torch
from click.testing import CliRunner

from innerq_export.cli.main import cli
from innerq_export.runtime import TorchOptions, Usage, generate, load_tokenizer, torch_decoder
from innerq_export.runtime.torch_session import TorchSession

COMPILING = 0.3
COMPILED = TorchOptions(dtype="float32", device="cpu", compiled=True)


@pytest.fixture
def slow_compiler(monkeypatch):
    """In the place of torch.compile: the first single token of all takes COMPILING seconds."""

    def compile_layers(model):
        forward, seen = model.forward, []

        def slow(**arguments):
            if arguments["input_ids"].shape[1] == 1 and not seen:
                seen.append(time.sleep(COMPILING))
            return forward(**arguments)

        model.forward = slow

    monkeypatch.setattr(torch_decoder, "compile_layers", compile_layers)


def told(session, prompt, tokens=5):
    start = time.perf_counter()
    *_, end, usage = generate(session, load_tokenizer(session.folder), prompt)
    assert isinstance(usage, Usage)
    return end.tokens[:tokens], usage, time.perf_counter() - start


@pytest.mark.parametrize("prompt", ["abc", ""])
def test_a_warm_up_is_in_no_phase_and_changes_nothing(tiny_engine, slow_compiler, prompt):
    session = TorchSession(tiny_engine, COMPILED, threads=1)
    plain = TorchSession(tiny_engine, TorchOptions(dtype="float32", device="cpu"), threads=1)
    tokens, usage, seconds = told(session, prompt)
    assert usage.warm_up_seconds >= COMPILING
    assert usage.prefill_seconds + usage.decode_seconds + usage.warm_up_seconds <= seconds
    expected, without, _ = told(plain, prompt)
    assert tokens == expected
    assert without.warm_up_seconds == 0
    assert told(session, prompt)[1].warm_up_seconds < COMPILING


def test_the_cache_is_as_without_a_warm_up(tiny_engine, slow_compiler):
    sessions = [TorchSession(tiny_engine, options, threads=1) for options in (COMPILED, TorchOptions("float32", "cpu"))]
    for session in sessions:
        session.prefill([list(range(60, 90))])
        session.decode([7])
    warm, plain = (session.cache(0) for session in sessions)
    assert all(torch.equal(warm[name], plain[name]) for name in ("window", "key_norm"))
    assert (sessions[0].length_B == [31]).all()


def test_the_command_says_it(tiny_engine, slow_compiler, capfd):
    words = ["run", str(tiny_engine), "--backend", "torch", "--device", "cpu", "--compile", "--prompt", "abc"]
    words += ["--threads", "1", "--ignore-eos", "--max-new-tokens", "3"]
    shown = CliRunner().invoke(cli, words)
    assert shown.exit_code == 0, shown.output
    assert "warm-up 0." in shown.stderr + capfd.readouterr().err
    usage = json.loads(CliRunner().invoke(cli, [*words, "--format", "json"]).stdout)["usage"]
    assert usage["warm_up_seconds"] >= COMPILING
