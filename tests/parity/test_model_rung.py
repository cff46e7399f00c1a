"""Kernels and plugin under PyTorch's model: the host build passes, a backend that dies is found, what lacks is said."""

from __future__ import annotations

import dataclasses

import pytest

from innerq_export.parity.model_rung import BATCH, TOKENS, model_outcome, model_outcomes
from innerq_export.parity.ops import KernelOps, ReferenceOps
from innerq_export.parity.ops.plugin_host import HostDiedError
from innerq_export.parity.ops.rungs import op_rungs
from innerq_export.parity.text import token_streams
from tests.parity.matrix import SETTING, SHAPE


@pytest.fixture(scope="module")
def streams_BT(tiny_checkpoint):
    return token_streams(tiny_checkpoint.folder, SHAPE.vocab, BATCH, TOKENS)


@pytest.mark.parametrize("backend", [ReferenceOps("packed"), KernelOps("host")], ids=lambda backend: backend.name)
def test_a_sound_backend_passes(backend, torch_model, streams_BT) -> None:
    if reason := backend.lacks(SETTING.config, "float16"):
        pytest.skip(reason)
    outcome = model_outcome(torch_model, backend, SETTING, streams_BT)
    assert outcome.result.status == "passed" and outcome.result.calls == 13
    assert outcome.result.figures["logits, worst dB"] > 50
    assert {"cache 1", "attention 0", "logits", "next token"} <= set(next(iter(outcome.tally.cases.values())))


def test_what_kernels_have_no_head_dim_for_is_not_run_and_nothing_fails(torch_model, streams_BT) -> None:
    setting = dataclasses.replace(SETTING, shape=dataclasses.replace(SHAPE, head_dim=32))
    outcomes = [rung.run() for rung in op_rungs([], setting)] + [
        model_outcome(torch_model, KernelOps("host"), setting, streams_BT)
    ]
    statuses = {(outcome.result.name, outcome.result.backend): outcome.result.status for outcome in outcomes}
    assert statuses.pop(("packing", "reference")) == "passed"
    assert set(statuses.values()) == {"not run"}
    if not KernelOps("host").lacks(setting.config, "float16"):
        assert "64, 128, 256, not 32" in outcomes[-1].result.reason


class Dying(ReferenceOps):
    def run(self, op, config, inputs, scale=0.0):
        if int(inputs["past_length"].max()) > 100:
            raise HostDiedError("exit -11 after: enqueue\nand more")
        return super().run(op, config, inputs, scale)


def test_a_backend_that_dies_is_a_finding_not_a_traceback(torch_model, streams_BT) -> None:
    finding = model_outcome(torch_model, Dying(), SETTING, streams_BT).finding
    assert finding is not None and finding.rung == "model" and finding.got == "exit -11 after: enqueue"


def test_without_a_model_every_backend_is_listed_as_not_run(streams_BT) -> None:
    outcomes = list(model_outcomes(None, SETTING, streams_BT))
    assert [outcome.result.status for outcome in outcomes] == ["not run"] * 3
    assert {outcome.result.reason for outcome in outcomes} == {"no Hugging Face checkpoint to compare with"}
