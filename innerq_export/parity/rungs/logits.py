"""Logits of the whole model against PyTorch that attends over the same keys and values."""

from __future__ import annotations

from innerq_export.parity.accuracy import Tally, signal
from innerq_export.parity.call import Call
from innerq_export.parity.metrics import decibels, kl_divergence, top1_agrees, top5_overlap
from innerq_export.parity.report import Finding
from innerq_export.parity.rungs.base import lacks_torch
from innerq_export.parity.tolerances import model_floor_db


class LogitsRung:
    """The end of the model, after the last new token of each sequence."""

    name = "logits"
    verdict = True

    def __init__(self, layers: int, dtype: str):
        self._floor = model_floor_db(dtype, layers)
        self.tolerance = f"at least {self._floor:.1f} dB for every sequence and call"
        self._worst_kl, self._largest = 0.0, 0.0
        self.tally = Tally()
        self._top1: list[float] = []
        self._top5: list[float] = []

    def lacks(self, call: Call) -> str:
        """PyTorch's side."""
        return lacks_torch(call)

    def check(self, call: Call) -> Finding | None:
        """Compare the sequences that got tokens."""
        for b in call.active:
            expected, got = call.torch_said.logits_BV[b], call.seen.logits_BV[b]
            level = decibels(expected, got).item()
            self._worst_kl = max(self._worst_kl, kl_divergence(expected, got).item())
            self._largest = max(self._largest, (expected - got).abs().max().item())
            self._top1.append(float(top1_agrees(expected, got)))
            self._top5.append(top5_overlap(expected, got).item())
            if not self.tally.add(call.case, "logits", signal(level, self._floor)):
                return self._finding(call, b, level)
        return None

    def figures(self) -> dict[str, float]:
        """Return the worst dB, KL and difference of a logit, and how far the most likely one and five tokens agree."""
        count = max(1, len(self._top1))
        agreed = {"top-1": sum(self._top1) / count, "top-5": sum(self._top5) / count}
        return {"worst dB": self.tally.worst(), "worst KL": self._worst_kl, "max difference": self._largest, **agreed}

    def _finding(self, call: Call, sequence: int, level: float) -> Finding:
        return Finding(
            rung=self.name,
            what="logits are not those of PyTorch over the same keys and values",
            expected=f"at least {self._floor:.1f} dB",
            got=f"{level:.1f} dB",
            advice="every layer's keys and values are right: look at the last layer's MLP, the final norm, the head",
            case=call.case,
            call=call.index,
            sequence=sequence,
            token=int(call.past_length_B[sequence] + call.new_length_B[sequence]) - 1,
        )
