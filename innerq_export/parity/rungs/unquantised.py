"""Against the model without quantisation: what the cache costs. Reported, never failed."""

from __future__ import annotations

import math
from collections import defaultdict

from torch import Tensor

from innerq_export.parity.accuracy import Tally
from innerq_export.parity.call import Call
from innerq_export.parity.metrics import kl_divergence, negative_log_likelihood, top1_agrees, top5_overlap
from innerq_export.parity.rungs.base import lacks_text


class UnquantisedRung:
    """KL, agreement and perplexity beside the model without a cache.

    `logits_BTV` are its logits over the first T tokens of the streams [B, T + 1].
    """

    name = "unquantised"
    tolerance = ""
    verdict = False

    def __init__(self, logits_BTV: Tensor | None, streams_BT: Tensor):
        self._logits_BTV, self._streams_BT = logits_BTV, streams_BT
        self._kl: dict[int, list[float]] = defaultdict(list)
        self._agreed: list[tuple[float, float]] = []
        self.tally = Tally()
        self._nll: list[tuple[float, float]] = []

    def lacks(self, call: Call) -> str:
        """The source's logits."""
        return lacks_text(call, self._logits_BTV)

    def check(self, call: Call) -> None:
        """Record the sequences that got tokens."""
        assert self._logits_BTV is not None
        for b in call.active:
            last = int(call.past_length_B[b] + call.new_length_B[b]) - 1
            expected, got = self._logits_BTV[b, last], call.seen.logits_BV[b]
            self._kl[last].append(kl_divergence(expected, got).item())
            self._agreed.append((float(top1_agrees(expected, got)), top5_overlap(expected, got).item()))
            following = int(self._streams_BT[b, last + 1])
            self._nll.append((negative_log_likelihood(expected, following), negative_log_likelihood(got, following)))

    @property
    def kl_by_position(self) -> tuple[tuple[int, float], ...]:
        """Mean KL of every token position that was seen, in order."""
        return tuple((token, sum(values) / len(values)) for token, values in sorted(self._kl.items()))

    def figures(self) -> dict[str, float]:
        """Return mean and worst KL in nats, agreement of the likeliest tokens, and what the perplexity grew by."""
        every = [value for values in self._kl.values() for value in values]
        if not every:
            return {}
        count = len(every)
        plain, quantised = (math.exp(sum(pair[side] for pair in self._nll) / count) for side in (0, 1))
        return {
            "mean KL": sum(every) / count,
            "worst KL": max(every),
            "top-1": sum(pair[0] for pair in self._agreed) / count,
            "top-5": sum(pair[1] for pair in self._agreed) / count,
            "perplexity": plain,
            "perplexity difference": quantised - plain,
        }
