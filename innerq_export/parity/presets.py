"""What each preset costs this model: the reference's cache under the Hugging Face model, over a text."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from innerq_export.artifacts import ModelShape
from innerq_export.parity.metrics import kl_divergence, negative_log_likelihood
from innerq_export.parity.report import REPORTED, RungResult
from innerq_export.parity.torch_model import TorchModel
from innerq_export.reference import Cache, append, attend, empty_cache
from innerq_export.spec import PRESETS, CacheConfig, blocks_of

TOKENS, CHUNK = 768, 32


def presets_result(model: TorchModel, shape: ModelShape, ids_T: Tensor) -> RungResult:
    """Return mean KL and growth of perplexity of every preset, over at most 768 tokens given in chunks of 32."""
    ids_T = ids_T[: min(TOKENS, shape.max_positions) // CHUNK * CHUNK]
    plain_TV = model.unquantised(ids_T)
    figures: dict[str, float] = {}
    for name, config in PRESETS.items():
        got_TV = quantised_logits(model, shape, config, ids_T)
        grown = _perplexity(got_TV, ids_T) - _perplexity(plain_TV, ids_T)
        figures |= {f"{name} KL": kl_divergence(plain_TV, got_TV).mean().item(), f"{name} perplexity": grown}
    return RungResult("presets", REPORTED, "", len(ids_T) // CHUNK * len(PRESETS), figures, backend="reference")


def quantised_logits(model: TorchModel, shape: ModelShape, config: CacheConfig, ids_T: Tensor) -> Tensor:
    """Return the logits [T, V] when every layer attends over the reference's cache, chunk by chunk."""
    sizes = (1, shape.kv_heads, shape.head_dim, max(1, blocks_of(config, len(ids_T))))
    caches = [empty_cache(config, *sizes)] * shape.layers
    logits = []
    for start in range(0, len(ids_T), CHUNK):
        chunk_1S = ids_T[None, start : start + CHUNK]
        past_B, new_B = torch.tensor([start]).int(), torch.tensor([chunk_1S.shape[1]]).int()

        def attention(layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
            half = [state.half() for state in (query, key, value)]
            caches[layer] = after = append(caches[layer], half[1], half[2], new_B)  # noqa: B023 (called at once)
            return _attend(after, half, past_B, new_B, scale)  # noqa: B023

        logits.append(model.with_attention(chunk_1S, start + torch.arange(chunk_1S.shape[1])[None], attention)[0])
    return torch.cat(logits)


def _attend(cache: Cache, states: list[Tensor], past_B: Tensor, new_B: Tensor, scale: float) -> Tensor:
    query, key, value = states
    return attend(cache, query, key, value, past_B, new_B, scale).float()


def _perplexity(logits_TV: Tensor, ids_T: Tensor) -> float:
    following = ids_T[1:].tolist()
    losses = [negative_log_likelihood(logits_TV[t], token) for t, token in enumerate(following)]
    return math.exp(sum(losses) / len(losses))
