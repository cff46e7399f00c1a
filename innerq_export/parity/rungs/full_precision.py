"""Until the first block is made nothing is quantised: the engine must say what the model it was made from says."""

from __future__ import annotations

from torch import Tensor

from innerq_export.parity.accuracy import Tally, signal
from innerq_export.parity.call import Call
from innerq_export.parity.metrics import decibels
from innerq_export.parity.report import Finding
from innerq_export.parity.rungs.base import lacks_text
from innerq_export.parity.tolerances import model_floor_db


class FullPrecisionRung:
    """Logits of sequences without blocks, nothing fed across; `logits_BTV` are the source's over the token streams."""

    name = "full precision"
    verdict = True

    def __init__(self, layers: int, dtype: str, logits_BTV: Tensor | None):
        self._floor = model_floor_db(dtype, layers)
        self._logits_BTV = logits_BTV
        self.tolerance = f"before the first block, at least {self._floor:.1f} dB to the model without a cache"
        self.tally, self._compared = Tally(), 0

    def lacks(self, call: Call) -> str:
        """The source's logits, and a sequence that holds no block."""
        if reason := lacks_text(call, self._logits_BTV):
            return reason
        return "" if self._unquantised(call) else "every call is past the first block"

    def check(self, call: Call) -> Finding | None:
        """Compare the sequences that got tokens and hold no block."""
        assert self._logits_BTV is not None
        for b in self._unquantised(call):
            token = int(call.past_length_B[b] + call.new_length_B[b]) - 1
            level = decibels(self._logits_BTV[b, token], call.seen.logits_BV[b]).item()
            self._compared += 1
            if not self.tally.add(call.case, "logits in full precision", signal(level, self._floor)):
                return self._finding(call, b, token, level)
        return None

    def _unquantised(self, call: Call) -> list[int]:
        """Return the sequences that got tokens and hold no block."""
        return [b for b in call.active if not call.after[0].blocks_held(b)]

    def figures(self) -> dict[str, float]:
        """Return the worst dB, and over how many logits."""
        return {"worst dB": self.tally.worst(), "logits compared": self._compared}

    def _finding(self, call: Call, sequence: int, token: int, level: float) -> Finding:
        return Finding(
            rung=self.name,
            what="logits are not those of the model without a cache, though nothing is quantised yet",
            expected=f"at least {self._floor:.1f} dB",
            got=f"{level:.1f} dB",
            advice="the rewrite or the graph is at fault: compare it with the model before the rewrite",
            case=call.case,
            call=call.index,
            sequence=sequence,
            token=token,
        )
