"""Whether an attention mask is causality and nothing else, so that InnerQAttention may take its place.

The mask is computed for a few sizes (see evaluate.py). A sliding window shows only beyond its width, so one of the
sizes is larger than the windows in use (4,096 at most: Mistral 7B v0.1, Gemma 3, Phi-3).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from innerq_export.rewrite.evaluate import NotComputableError, evaluate

_SMALL, _BEYOND_WINDOWS = 7, 4160
_HIDDEN = -1.0e4


def refuse_mask(model: ir.Model, mask: ir.Value, causal_too: bool, max_positions: int) -> str | None:
    """Return in what `mask` differs from causality, or None.

    `causal_too`: the node is causal by its attribute, so the mask need not hide later tokens itself.
    `max_positions`: tokens that the model can place.
    """
    for batch, tokens in ((2, min(_SMALL, max_positions)), (1, min(_BEYOND_WINDOWS, max_positions))):
        try:
            values = evaluate(model, mask, batch, tokens)
        except NotComputableError as error:
            return f"its mask cannot be checked: {error}"
        reason = _difference(values, tokens, causal_too)
        if reason is not None:
            return f"its mask {reason} ({batch} sequences of {tokens} tokens)"
    return None


def _difference(values: np.ndarray, tokens: int, causal_too: bool) -> str | None:
    """Return the first difference of a boolean or additive mask [.., S, S] from causality."""
    seen = values if values.dtype == bool else values > _HIDDEN
    if seen.shape[-2:] not in ((tokens, tokens), (1, tokens)):
        return f"has the shape {list(seen.shape)}"
    expected = np.tril(np.ones((tokens, tokens), bool))
    shown = np.broadcast_to(seen, (*seen.shape[:-2], tokens, tokens))
    if not shown[..., expected].all():
        row, column = np.argwhere(~shown & expected)[0][-2:]
        return f"hides token {column} from token {row}: a window or padding"
    if not causal_too and shown[..., ~expected].any():
        return "shows later tokens: it is not causal"
    if values.dtype != bool and np.broadcast_to(values, shown.shape)[..., expected].any():
        return "adds a bias to tokens that are seen"
    return None
