"""One decoder, text and short run that the tests of eval share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def decoder(tiny_checkpoint):
    from innerq_export.eval.model import Decoder

    return Decoder(tiny_checkpoint.folder, "cpu")


@pytest.fixture(scope="session")
def source(tiny_checkpoint):
    from innerq_export.eval.text import open_source

    return open_source(tiny_checkpoint.folder, None)


@pytest.fixture(scope="session")
def report(tiny_checkpoint):
    """A short ablation of a few groups, with needles, sensitivity and one budget."""
    from innerq_export.eval.run import Options, evaluate

    options = Options(
        groups=("presets", "baselines", "key-norm", "scales"),
        budgets=(3.25,),
        tokens=256,
        prompt=128,
        sequences=1,
        seeds=(0, 1),
        needle_lengths=(224,),
        needle_depths=(0.0, 1.0),
        needles=2,
        device="cpu",
        command="innerq-export eval tiny",
    )
    return evaluate(tiny_checkpoint, options)
