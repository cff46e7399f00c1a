"""A KV cache for transformers (5.17 and later) that holds keys and values at about 3.5 bits.

    model.generate(**inputs, past_key_values=InnerQCache(model.config, preset="balanced"))

On a CUDA card the kernels attend straight from the packed cache; on the CPU the reference does. Creating the cache sets
the attention implementation of `config` to "innerq"; a model under it that is given another cache, or none, uses
torch's scaled_dot_product_attention as before.

For a captured decode step: give `max_tokens`, call `early_initialization(batch, kv_heads, head_dim, dtype, device)`,
and run the model under `torch.cuda.graph` with `position_ids` made from `cache.length_B` (int32 [B] on the device,
advanced by the step itself) and without an attention mask. Warm up and capture on the empty cache, then `reset()`; call
`count(1)` before every replay. Rows of different length: `with cache.ragged(new_length_B)` says how many of the S
columns of each row are tokens (aligned to the left; 0 for a row that rests), read on the device only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from innerq_export.errors import ConfigError
from innerq_export.integrations.hf_attention import Handed, innerq_attention, no_config, padding_of, use_innerq
from innerq_export.integrations.hf_mask import Step, plan_step
from innerq_export.integrations.library import Library, default_library
from innerq_export.integrations.stores import Store, new_store
from innerq_export.spec import GROUP_SIZE, CacheConfig, blocks_of
from innerq_export.spec import preset as preset_of

__all__ = ["InnerQCache", "innerq_attention", "use_innerq"]
FIRST_BLOCKS = 8
_MODELS = "choose another model: docs/transformers.md says which"


class InnerQLayer(CacheLayerMixin):
    """One layer of an InnerQCache, in the shape that transformers expects; `store` holds the tokens."""

    supports_early_init = True
    is_sliding = False
    store: Store
    batch_size: int

    def __init__(self, cache: InnerQCache, index: int):
        super().__init__()
        self._cache, self._index = cache, index

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate, for keys and values of the same shape [B, Hkv, any, D]."""
        if key_states.shape != value_states.shape:
            got = f"{list(key_states.shape)} and {list(value_states.shape)}"
            raise ConfigError("InnerQCache: keys and values", expected="the same shape", got=got, fix=_MODELS)
        self.store = self._cache._new_store(self._index, key_states)
        self.batch_size, self.is_initialized = key_states.shape[0], True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Hand the new tokens to the attention function, which appends them: only it knows what is padding."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return Handed(self, key_states), Handed(self, value_states)

    @torch.no_grad()
    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: object, scaling: float | None) -> Tensor:
        """Append and attend; returns [B, Hq, S, D]."""
        step = self._cache._step_of(self._index, mask, query.shape[2])
        query, key, value = (step.aligned(x) for x in (query, key, value))
        self.store.append(key, value, step)
        out = self.store.attend(query, key, value, step, scaling or 0.0)
        self._cache._done(self._index, step, query.shape[2])
        return step.restored(out)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the columns after the call, and 0."""
        return self._cache.columns + query_length, 0

    def get_seq_length(self) -> int:
        """Return the columns fed so far, padding included."""
        return self._cache.columns

    def get_max_length(self) -> int:
        """Return the limit given as `max_tokens`, -1 without one."""
        return self._cache.max_tokens or -1


class InnerQCache(Cache):
    """InnerQ cache of a whole decoder, for `past_key_values`.

    `config`: the model's own config object. `preset`: a preset's name, a CacheConfig, or a list of one CacheConfig for
    each layer that agree in `sink` and `recent` (what `eval --preset auto` chooses). `max_tokens`: tokens a sequence
    may have; memory is then allocated once, else it doubles as needed. `kernels`: "auto" (the CUDA library for tensors
    on a card, the reference on the CPU), or a loaded `Library`.
    `length_B`: int32 tokens held; `columns`: what `get_seq_length` says, padding included.
    """

    length_B: Tensor

    def __init__(
        self,
        config: Any,
        preset: str | CacheConfig | Sequence[CacheConfig] = "balanced",
        *,
        max_tokens: int | None = None,
        kernels: Library | str = "auto",
    ):
        self._configs = _configs_of(preset, _layers_of(config))
        self.cache_config = self._configs[0]
        self.max_tokens, self._kernels = max_tokens, kernels
        self.columns, self._longest, self._capacity = 0, 0, 0
        self._step: Step | None = None
        self._announced_B: Tensor | None = None
        super().__init__(layers=[InnerQLayer(self, index) for index in range(_layers_of(config))])
        use_innerq(config)

    @contextmanager
    def ragged(self, new_length_B: Tensor) -> Iterator[None]:
        """Within: row b brings the first `new_length_B[b]` (int32, on the device) of the S columns."""
        self._announced_B = new_length_B
        try:
            yield
        finally:
            self._announced_B = None

    def count(self, columns: int) -> None:
        """Note that a captured step of so many columns is about to be replayed; ConfigError where there is no room."""
        self._reserve(columns)
        self.columns += columns
        self._longest += columns

    def reset(self) -> None:
        """Forget all tokens; the memory and its addresses stay."""
        if hasattr(self, "length_B"):
            self.length_B.zero_()
        self.columns = self._longest = 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make row i what row beam_idx[i] was."""
        self._select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        self._select(torch.arange(len(self.length_B), device=self.length_B.device)[indices])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        rows = torch.arange(len(self.length_B), device=self.length_B.device)
        self._select(rows.repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Take the last `-tokens_to_remove` tokens of every row back, exactly; ConfigError where that is impossible.

        The window still holds the last recent + 32 tokens in full precision, so a block that was made of them can be
        undone; blocks older than that cannot.
        """
        if tokens_to_remove > 0:
            raise ConfigError(
                "crop", expected="minus the number of tokens to remove", got=tokens_to_remove, fix="crop(-1)"
            )
        if tokens_to_remove == 0:
            return
        for length in self.length_B.tolist():
            _check_crop(self.cache_config, length, -tokens_to_remove)
        self.length_B += tokens_to_remove
        self.columns += tokens_to_remove
        self._longest += tokens_to_remove

    def activate_past_recording(self) -> None:
        """Refuse: assisted decoding, which asks for this, takes more tokens back than a quantised cache can."""
        raise ConfigError(
            "assisted decoding cannot run on an InnerQCache",
            expected="a cache that can take back any number of tokens",
            fix="leave assistant_model and prompt_lookup_num_tokens out, or use transformers' DynamicCache",
        )

    @property
    def _mine(self) -> list[InnerQLayer]:
        return [layer for layer in self.layers if isinstance(layer, InnerQLayer)]

    def _select(self, index_B: Tensor) -> None:
        index_B = index_B.to(self.length_B.device)
        for layer in self._mine:
            layer.store.select(index_B)
            layer.batch_size = len(index_B)
        same = len(index_B) == len(self.length_B)
        self.length_B = self.length_B.copy_(self.length_B[index_B]) if same else self.length_B[index_B]

    def _new_store(self, layer: int, like_BHkvSD: Tensor) -> Store:
        if not hasattr(self, "length_B"):
            self.length_B = torch.zeros(like_BHkvSD.shape[0], dtype=torch.int32, device=like_BHkvSD.device)
            blocks = FIRST_BLOCKS if self.max_tokens is None else blocks_of(self.cache_config, self.max_tokens)
            self._capacity = blocks
        if like_BHkvSD.device != self.length_B.device:
            got = f"{self.length_B.device} and {like_BHkvSD.device}"
            fix = 'load the model on one device: device_map={"": 0}'
            raise ConfigError("InnerQCache: layers on several devices", expected="one device", got=got, fix=fix)
        return new_store(self._configs[layer], like_BHkvSD, self._capacity, self._library(like_BHkvSD))

    def _library(self, like: Tensor) -> Library | None:
        if isinstance(self._kernels, Library):
            return self._kernels
        return default_library("cuda") if like.device.type == "cuda" else None

    def _step_of(self, layer: int, mask: object, columns: int) -> Step:
        """Return the step that all layers of a forward pass share; the first one plans it and makes room."""
        if layer == 0 or self._step is None:
            if self._announced_B is not None:
                self._step = Step(self.length_B, self._announced_B, columns)
            else:
                self._step = plan_step(self.length_B, padding_of(mask), self.columns, columns)
            self._reserve(self._step.longest)
        return self._step

    def _done(self, layer: int, step: Step, columns: int) -> None:
        if layer == len(self.layers) - 1:
            self.length_B += step.new_length_B
            self.columns += columns
            self._longest += step.longest
            self._step = None

    def _reserve(self, new: int) -> None:
        """Make room for `new` more tokens of the longest row."""
        tokens = self._longest + new
        if self.max_tokens is not None and tokens > self.max_tokens:
            raise ConfigError(
                "InnerQCache: no room", expected=f"at most {self.max_tokens} tokens (max_tokens)", got=tokens,
                fix="create it with a larger max_tokens, or without, to let it grow",
            )  # fmt: skip
        needed = blocks_of(self.cache_config, tokens)
        if needed > self._capacity:
            self._capacity = max(needed, 2 * self._capacity)
            for layer in self._mine:
                if layer.is_initialized:
                    layer.store.grow(self._capacity)


def text_config(config: Any) -> Any:
    """Return the config of the decoder; ConfigError if `config` is none of transformers'."""
    if not hasattr(config, "get_text_config"):
        raise no_config(config)
    return config.get_text_config(decoder=True)


def _configs_of(preset: str | CacheConfig | Sequence[CacheConfig], layers: int) -> tuple[CacheConfig, ...]:
    """Return one configuration for each layer. ConfigError when their number or their windows differ."""
    if isinstance(preset, (str, CacheConfig)):
        return (preset_of(preset) if isinstance(preset, str) else preset,) * layers
    if len(preset) != layers:
        fix = "give one CacheConfig for each layer, or one for all"
        raise ConfigError("InnerQCache: configurations of layers", expected=layers, got=len(preset), fix=fix)
    windows = {(config.sink, config.recent) for config in preset}
    if len(windows) > 1:
        fix = "layers may differ in bits, modes and key_norm only"
        raise ConfigError(
            "InnerQCache: sink and recent of the layers", expected="the same in all", got=sorted(windows), fix=fix
        )
    return tuple(preset)


def _layers_of(config: Any) -> int:
    """Return the number of layers; ConfigError where some of them have no plain attention of their own."""
    text = text_config(config)
    kinds: set[str] = set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    shared: Any = getattr(text, "num_kv_shared_layers", 0)
    if kinds or shared:
        got = ", ".join(sorted(kinds)) or "layers that share keys and values"
        raise ConfigError(
            "InnerQCache", expected="a decoder whose layers all attend by themselves", got=got, fix=_MODELS
        )
    return text.num_hidden_layers


def _check_crop(config: CacheConfig, length: int, remove: int) -> None:
    left = length - remove
    needed = config.sink + GROUP_SIZE * blocks_of(config, left)
    if left < 0 or (needed < left and needed < length - config.recent - GROUP_SIZE):
        raise ConfigError(
            f"crop: {remove} of {length} tokens cannot be taken back exactly: they are quantised",
            expected="tokens that the full-precision window still holds",
            fix="crop fewer tokens, or reset() and feed the shorter text again",
        )
