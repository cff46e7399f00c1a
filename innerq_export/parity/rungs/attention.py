"""Each layer's attention in dB, given the engine's own query, keys and values and the reference's cache."""

from __future__ import annotations

import torch

from innerq_export.parity.accuracy import Tally, signal
from innerq_export.parity.call import Call
from innerq_export.parity.metrics import decibels
from innerq_export.parity.report import Finding
from innerq_export.spec.ops import ATTENTION


class AttentionRung:
    """Attend against the reference: every head of every token. `layers_db` keeps the worst of each layer."""

    name = "attention"
    verdict = True

    def __init__(self, layers: int, dtype: str):
        self._floor = ATTENTION.tolerance.min_db[dtype]
        self.tolerance = f"at least {self._floor:g} dB for every head and token"
        self.layers_db = [float("inf")] * layers
        self.tally = Tally()

    def lacks(self, call: Call) -> str:
        """Nothing."""
        return ""

    def check(self, call: Call) -> Finding | None:
        """Compare all layers of the call."""
        for layer, seen in enumerate(call.seen.layers):
            expected = call.attend(layer, seen.query_BHqSD, seen.scale)
            level_BHqS = decibels(expected, seen.output_BHqSD)
            level_BHqS = torch.where(call.real_BS[:, None], level_BHqS, torch.inf)
            worst = level_BHqS.min().item()
            self.layers_db[layer] = min(self.layers_db[layer], worst)
            if not self.tally.add(call.case, f"attention {layer}", signal(worst, self._floor)):
                return self._finding(call, layer, (level_BHqS == worst).nonzero()[0].tolist(), worst)
        return None

    def figures(self) -> dict[str, float]:
        """Return the worst head of all."""
        return {"worst dB": min(self.layers_db)}

    def _finding(self, call: Call, layer: int, place: list[int], worst: float) -> Finding:
        sequence, head, row = place
        seen = call.seen.layers[layer]
        return Finding(
            rung=self.name,
            what="attention is not that of the reference over the same query and cache",
            expected=f"at least {self._floor:g} dB",
            got=f"{worst:.1f} dB",
            advice="InnerQAttention is at fault (its cache is right): run it alone on these inputs, against attend",
            case=call.case,
            call=call.index,
            sequence=sequence,
            layer=layer,
            head=head,
            kv_head=head // (seen.query_BHqSD.shape[1] // seen.key_BHkvSD.shape[1]),
            token=int(call.past_length_B[sequence]) + row,
        )
