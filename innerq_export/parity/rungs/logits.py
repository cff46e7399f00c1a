"""Logits of the whole model against PyTorch that attends over the same keys and values."""

from __future__ import annotations

from innerq_export.parity.call import Call
from innerq_export.parity.metrics import decibels, kl_divergence, top1_agrees
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
        self._worst, self._worst_kl, self._agreed = float("inf"), 0.0, [0, 0]

    def lacks(self, call: Call) -> str:
        """PyTorch's side."""
        return lacks_torch(call)

    def check(self, call: Call) -> Finding | None:
        """Compare the sequences that got tokens."""
        for b in call.active:
            expected, got = call.torch_said.logits_BV[b], call.seen.logits_BV[b]
            level = decibels(expected, got).item()
            self._worst = min(self._worst, level)
            self._worst_kl = max(self._worst_kl, kl_divergence(expected, got).item())
            self._agreed[int(top1_agrees(expected, got))] += 1
            if level < self._floor:
                return self._finding(call, b, level)
        return None

    def figures(self) -> dict[str, float]:
        """Return the worst dB and KL, and the share of equal most likely tokens."""
        top1 = self._agreed[1] / max(1, sum(self._agreed))
        return {"worst dB": self._worst, "worst KL": self._worst_kl, "top-1": top1}

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
