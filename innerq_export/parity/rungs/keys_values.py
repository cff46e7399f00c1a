"""Each layer's new keys and values against PyTorch's own: the graph outside the two ops."""

from __future__ import annotations

import torch

from innerq_export.parity.accuracy import Tally, signal
from innerq_export.parity.call import Call
from innerq_export.parity.metrics import decibels
from innerq_export.parity.report import Finding
from innerq_export.parity.rungs.base import lacks_torch
from innerq_export.parity.tolerances import model_floor_db


class KeysValuesRung:
    """Projections, norms and RoPE: what is fed across from the engine to PyTorch must be what PyTorch makes itself."""

    name = "keys and values"
    verdict = True

    def __init__(self, layers: int, dtype: str):
        self._floor = model_floor_db(dtype, layers)
        self.tolerance = f"at least {self._floor:.1f} dB for every token"
        self.tally = Tally()

    def lacks(self, call: Call) -> str:
        """PyTorch's side."""
        return lacks_torch(call)

    def check(self, call: Call) -> Finding | None:
        """Compare keys and values of all layers, all KV heads of a token at once."""
        said = call.torch_said
        for layer, seen in enumerate(call.seen.layers):
            pairs = (("keys", said.keys[layer], seen.key_BHkvSD), ("values", said.values[layer], seen.value_BHkvSD))
            for name, expected, got in pairs:
                level_BS = decibels(*(x.transpose(1, 2).flatten(2) for x in (expected, got)))
                level_BS = torch.where(call.real_BS, level_BS, torch.inf)
                worst = level_BS.min().item()
                if not self.tally.add(call.case, f"{name} {layer}", signal(worst, self._floor)):
                    return self._finding(call, layer, name, (level_BS == worst).nonzero()[0].tolist(), worst)
        return None

    def figures(self) -> dict[str, float]:
        """Return the worst token of all."""
        return {"worst dB": self.tally.worst()}

    def _finding(self, call: Call, layer: int, name: str, place: list[int], worst: float) -> Finding:
        sequence, row = place
        return Finding(
            rung=self.name,
            what=f"the new {name} are not those of the Hugging Face model",
            expected=f"at least {self._floor:.1f} dB",
            got=f"{worst:.1f} dB",
            advice=f"the graph before the cache of layer {layer} is at fault: weights, norms, RoPE or positions",
            case=call.case,
            call=call.index,
            sequence=sequence,
            layer=layer,
            token=int(call.past_length_B[sequence]) + row,
        )
