"""The token that would be chosen next, on the text and when the engine goes on by itself."""

from __future__ import annotations

from innerq_export.parity.accuracy import Tally, equality
from innerq_export.parity.call import Call
from innerq_export.parity.report import Finding
from innerq_export.parity.rungs.base import lacks_torch
from innerq_export.parity.tolerances import model_floor_db


class TokensRung:
    """The engine's most likely token is PyTorch's, or as likely there within what the rung of logits allows.

    An error of e = |logits| 10^(-floor / 20) in all may turn two logits by sqrt(2) e against each other.
    """

    name = "tokens"
    tolerance = "the most likely token is PyTorch's, ties within the tolerance of logits"
    verdict = True

    def __init__(self, layers: int, dtype: str):
        self._share = 2**0.5 * 10 ** (-model_floor_db(dtype, layers) / 20)
        self._equal, self._chosen, self._free = 0, 0, 0
        self.tally = Tally()

    def lacks(self, call: Call) -> str:
        """PyTorch's side."""
        return lacks_torch(call)

    def check(self, call: Call) -> Finding | None:
        """Compare the choice after each sequence that got tokens."""
        for b in call.active:
            expected_V = call.torch_said.logits_BV[b].double()
            chosen, wanted = int(call.seen.logits_BV[b].argmax()), int(expected_V.argmax())
            self._chosen, self._equal = self._chosen + 1, self._equal + (chosen == wanted)
            self._free += not call.teacher_forced
            lead = (expected_V[wanted] - expected_V[chosen]).item()
            allowed = lead <= self._share * expected_V.norm().item()
            if not self.tally.add(call.case, "next token", equality(None if allowed else lead)):
                return self._finding(call, b, wanted, chosen, lead)
        return None

    def figures(self) -> dict[str, float]:
        """Return the share of equal choices, and how many were made in free runs."""
        return {"equal": self._equal / max(1, self._chosen), "chosen freely": self._free}

    def _finding(self, call: Call, sequence: int, wanted: int, chosen: int, lead: float) -> Finding:
        return Finding(
            rung=self.name,
            what="the engine goes on with another token than PyTorch over the same keys and values",
            expected=f"token {wanted}",
            got=f"token {chosen}, {lead:.3g} less likely in log space",
            advice="the rung of logits says how far apart they are; --bisect cuts out the end of the model",
            case=call.case,
            call=call.index,
            sequence=sequence,
            token=int(call.past_length_B[sequence] + call.new_length_B[sequence]),
        )
