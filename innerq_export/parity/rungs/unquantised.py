"""Against the model without quantisation: what the cache costs. Reported, never failed."""

from __future__ import annotations

from torch import Tensor

from innerq_export.parity.call import Call
from innerq_export.parity.metrics import kl_divergence, top1_agrees
from innerq_export.parity.rungs.base import NO_SOURCE


class UnquantisedRung:
    """KL and top-1 agreement to the model without a cache; `logits_BTV` are its logits over the token streams."""

    name = "unquantised"
    tolerance = ""
    verdict = False

    def __init__(self, logits_BTV: Tensor | None):
        self._logits_BTV = logits_BTV
        self._kl: list[float] = []
        self._agreed: list[bool] = []

    def lacks(self, call: Call) -> str:
        """The source's logits."""
        return NO_SOURCE if self._logits_BTV is None else ""

    def check(self, call: Call) -> None:
        """Record the sequences that got tokens."""
        assert self._logits_BTV is not None
        for b in call.active:
            last = int(call.past_length_B[b] + call.new_length_B[b]) - 1
            expected, got = self._logits_BTV[b, last], call.seen.logits_BV[b]
            self._kl.append(kl_divergence(expected, got).item())
            self._agreed.append(bool(top1_agrees(expected, got)))

    def figures(self) -> dict[str, float]:
        """Return mean and worst KL in nats, and the share of equal most likely tokens."""
        count = max(1, len(self._kl))
        mean = sum(self._kl) / count
        return {"mean KL": mean, "worst KL": max(self._kl, default=0.0), "top-1": sum(self._agreed) / count}
