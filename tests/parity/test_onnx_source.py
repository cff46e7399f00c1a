"""A user's ONNX run as it is, with and without a cache of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from innerq_export.errors import UserError
from innerq_export.parity.onnx_source import OnnxSource
from tests.rewrite.network_run import run_given
from tests.rewrite.tiny_decoder import Form, tiny_decoder

IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])


@pytest.mark.parametrize("form", [Form(), Form(past="joined", expand=2), Form(past="given", mask="added")], ids=str)
def test_its_logits_without_a_past(form: Form, tmp_path: Path) -> None:
    model = tiny_decoder(form).model
    ir.save(model, tmp_path / "decoder.onnx")
    logits = OnnxSource(tmp_path / "decoder.onnx", threads=1).unquantised(IDS)
    assert np.allclose(logits.numpy(), run_given(model, IDS.numpy()[None])[0], atol=1e-6)


def test_an_input_that_nobody_can_guess_is_named(tmp_path: Path) -> None:
    model = tiny_decoder(Form()).model
    model.graph.inputs[1].name = "speaker"
    ir.save(model, tmp_path / "decoder.onnx")
    with pytest.raises(UserError, match="speaker"):
        OnnxSource(tmp_path / "decoder.onnx").unquantised(IDS)
