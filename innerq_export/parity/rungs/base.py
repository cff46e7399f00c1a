"""What a rung is."""

from __future__ import annotations

from typing import Protocol

from innerq_export.parity.call import Call
from innerq_export.parity.report import Finding


class Rung(Protocol):
    """One check of every call. `tolerance` says in words what must hold; `verdict` whether the rung can fail at all.

    `needs_torch`: it compares with the Hugging Face model, so it cannot run without a checkpoint.
    """

    name: str
    tolerance: str
    verdict: bool
    needs_torch: bool

    def check(self, call: Call) -> Finding | None:
        """Return the first thing that is wrong with the call; remember its figures."""

    def figures(self) -> dict[str, float]:
        """Return the figures over all calls so far."""
