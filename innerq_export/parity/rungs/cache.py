"""Codes, scales, lambda and windows of every layer, bit for bit, given the engine's own keys and values."""

from __future__ import annotations

from innerq_export.errors import UserError
from innerq_export.parity.accuracy import Tally, equality
from innerq_export.parity.call import Call
from innerq_export.parity.compare import Difference, first_difference
from innerq_export.parity.report import Finding


class CacheRung:
    """Append against the reference."""

    name = "cache"
    tolerance = "codes, scales and windows equal bit for bit"
    verdict = True

    def __init__(self) -> None:
        self._compared = 0
        self.tally = Tally()

    def lacks(self, call: Call) -> str:
        """Nothing."""
        return ""

    def check(self, call: Call) -> Finding | None:
        """Compare all layers after the call."""
        for layer, seen in enumerate(call.seen.layers):
            try:
                expected = call.append(layer)
            except UserError as error:
                return self._unfit(call, layer, error)
            difference = first_difference(expected, seen.cache)
            off = difference.got - difference.expected if difference else None
            self.tally.add(call.case, f"cache {layer}", equality(off))
            if difference:
                return self._finding(call, layer, difference)
            self._compared += 1
        return None

    def figures(self) -> dict[str, float]:
        """Return how many caches were compared."""
        return {"caches compared": self._compared}

    def _finding(self, call: Call, layer: int, found: Difference) -> Finding:
        channel = "" if found.channel is None else f" (channel {found.channel})"
        return Finding(
            rung=self.name,
            what=f"{found.part} is not what the reference makes of the same keys and values",
            expected=f"{found.expected:g}{channel}",
            got=f"{found.got:g}{channel}",
            advice="InnerQAppend is at fault: run it alone on these inputs, against innerq_export.reference.append",
            case=call.case,
            call=call.index,
            sequence=found.sequence,
            layer=layer,
            kv_head=found.head,
            block=found.block,
            token=found.token,
        )

    def _unfit(self, call: Call, layer: int, error: UserError) -> Finding:
        return Finding(
            rung=self.name,
            what="the engine's keys or values cannot be quantised",
            expected=str(error.expected),
            got=f"{error.what}: {error.got}",
            advice="the model overflows before its cache: export with --dtype float32 and compare",
            case=call.case,
            call=call.index,
            layer=layer,
        )
