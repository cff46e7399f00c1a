"""What a rung is."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from innerq_export.parity.accuracy import Tally
from innerq_export.parity.call import Call
from innerq_export.parity.report import Finding

NO_CHECKPOINT = "no Hugging Face checkpoint to compare with"
NO_SOURCE = "no model without a cache to compare with"


FREE_RUNNING = "tokens of a free run are not the text's"


class Rung(Protocol):
    """One check of every call. `tolerance` says in words what must hold; `verdict` whether the rung can fail at all.

    `tally` holds what was compared, in Polygraphy's types.
    """

    name: str
    tolerance: str
    verdict: bool
    tally: Tally

    def lacks(self, call: Call) -> str:
        """Return what the rung would need to check this call and does not have; '' if nothing."""

    def check(self, call: Call) -> Finding | None:
        """Return the first thing that is wrong with the call; remember its figures."""

    def figures(self) -> dict[str, float]:
        """Return the figures over all calls so far."""


def lacks_text(call: Call, logits_BTV: Tensor | None) -> str:
    """Return why a rung that needs the source's logits over the text cannot check this call, or ''."""
    if logits_BTV is None:
        return NO_SOURCE
    return "" if call.teacher_forced else FREE_RUNNING


def lacks_torch(call: Call) -> str:
    """Return why a rung that needs PyTorch's side cannot run, or ''."""
    return "" if call.model else NO_CHECKPOINT
