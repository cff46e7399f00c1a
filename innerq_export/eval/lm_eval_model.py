"""lm-eval's Hugging Face model with InnerQCache in every generation. Imports lm-eval: only reached with --tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM

from innerq_export.errors import UserError
from innerq_export.spec import CacheConfig


class QuantisedCacheLM(HFLM):
    """A checkpoint folder as lm-eval asks it; `cache` None: transformers' own full-precision cache."""

    def __init__(self, folder: Path, cache: CacheConfig | None, device: str):
        dtype = "float16" if device == "cuda" else "float32"
        super().__init__(pretrained=str(folder), device=device, dtype=dtype, batch_size=1)
        self._cache = cache

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **generation: Any) -> Any:
        """Generate with a fresh cache."""
        if self._cache is not None:
            from innerq_export.integrations.transformers import InnerQCache

            generation["past_key_values"] = InnerQCache(self.model.config, self._cache)
        return super()._model_generate(context, max_length, stop, **generation)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Refuse: such a task reads question and answer in one call, so no cache is ever read."""
        raise UserError(
            "this task compares likelihoods and generates nothing: under any cache its result would be that of fp16",
            expected="a task that generates (output_type: generate_until), such as gsm8k",
            fix="leave --tasks away: perplexity and KL are measured token by token",
        )

    loglikelihood_rolling = loglikelihood
