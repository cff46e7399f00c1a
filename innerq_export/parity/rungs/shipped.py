"""The engine without probes computes the very same: looking inside has not changed what was looked at."""

from __future__ import annotations

import math

import torch

from innerq_export.parity.accuracy import Tally, equality
from innerq_export.parity.call import Call
from innerq_export.parity.report import Finding


class ShippedRung:
    """Logits and caches of two sessions, one with extra outputs and one as users run it, bit for bit."""

    name = "as shipped"
    tolerance = "without probes: logits and caches equal bit for bit"
    verdict = True

    def __init__(self) -> None:
        self.tally = Tally()

    def lacks(self, call: Call) -> str:
        """The runner has to run both sessions."""
        return "" if call.seen.shipped else "the model is large: a second session would not be small"

    def check(self, call: Call) -> Finding | None:
        """Compare both sessions after the call."""
        finding = self._first_difference(call)
        self.tally.add(call.case, "as shipped", equality(math.inf if finding else None))
        return finding

    def figures(self) -> dict[str, float]:
        """Return nothing: equal is equal."""
        return {}

    def _first_difference(self, call: Call) -> Finding | None:
        shipped = call.seen.shipped
        assert shipped is not None
        for layer, seen in enumerate(call.seen.layers):
            for part, probed in seen.cache.items():
                if not torch.equal(probed, shipped.caches[layer][part]):
                    return self._finding(call, f"{part} differs", layer)
        for b in call.active:
            if not torch.equal(call.seen.logits_BV[b], shipped.logits_BV[b]):
                return self._finding(call, "logits differ", None, b)
        return None

    def _finding(self, call: Call, what: str, layer: int | None, sequence: int | None = None) -> Finding:
        return Finding(
            rung=self.name,
            what=f"the engine without probes computes something else: {what}",
            expected="equal bit for bit",
            got="a difference",
            advice="ONNX Runtime fuses the graph in another way when nobody looks: please report it with the folder",
            case=call.case,
            call=call.index,
            sequence=sequence,
            layer=layer,
        )
