"""Torch tensors as the structs of innerq.h. The structs own nothing: tensors must outlive the launched work."""

from __future__ import annotations

import torch
from torch import Tensor

from innerq_export.errors import ConfigError
from innerq_export.integrations import structs
from innerq_export.integrations.cache import PackedCache
from innerq_export.integrations.library import config_struct

ACTIVATION_OF = {torch.float16: "fp16", torch.bfloat16: "bf16"}
STRIDE_UNIT = 8


def activation_of(name: str, tensor: Tensor) -> str:
    """Return "fp16" or "bf16"; any other dtype is refused by name."""
    if tensor.dtype not in ACTIVATION_OF:
        raise ConfigError(f"dtype of '{name}'", expected="float16 or bfloat16", got=tensor.dtype, fix="cast it")
    return ACTIVATION_OF[tensor.dtype]


def config_view(cache: PackedCache) -> structs.Config:
    """Return innerq_config of a cache: head dim and activation dtype are its window's."""
    window = cache.window_B2HkvWD
    return config_struct(cache.config, window.shape[-1], activation_of("window", window))


def cache_view(cache: PackedCache) -> structs.Cache:
    """Return innerq_cache that points into the cache's tensors."""
    paged, learns = cache.block_table_BP is not None, cache.config.key_norm == "prefill"
    return structs.Cache(
        batch=cache.window_B2HkvWD.shape[0],
        kv_heads=cache.window_B2HkvWD.shape[2],
        capacity_blocks=cache.capacity_blocks,
        window_B2HkvWD=cache.window_B2HkvWD.data_ptr(),
        blocks=cache.blocks.data_ptr(),
        key_norm_BHkvD=cache.key_norm_BHkvD.data_ptr() if learns else None,
        block_table=cache.block_table_BP.data_ptr() if cache.block_table_BP is not None else None,
        page_blocks=cache.blocks.shape[2] if paged else 0,
        pages=cache.blocks.shape[0] if paged else 0,
        flags=cache.flags.data_ptr(),
    )


def readable(tensor_BHSD: Tensor) -> Tensor:
    """Return the tensor itself if the kernels can read it through its strides, else a contiguous copy."""
    if fits(tensor_BHSD):
        return tensor_BHSD
    return tensor_BHSD.clone(memory_format=torch.contiguous_format)


def fits(tensor_BHSD: Tensor) -> bool:
    """Whether rows of D are dense, strides are multiples of 8 elements, not all 0, and the data starts on 16 bytes."""
    outer = tensor_BHSD.stride()[:-1]
    even = any(outer) and all(stride % STRIDE_UNIT == 0 for stride in outer)
    return tensor_BHSD.stride(-1) == 1 and even and tensor_BHSD.data_ptr() % 16 == 0


def tokens_view(tensor_BHSD: Tensor) -> structs.Tokens:
    """Return innerq_tokens of a tensor [B, H, S, D] that `fits`."""
    batch, head, token, _ = tensor_BHSD.stride()
    return structs.Tokens(tensor_BHSD.data_ptr(), batch, head, token)


def pointer(tensor: Tensor | None) -> int | None:
    """Return the address of a tensor, None for None."""
    return None if tensor is None else tensor.data_ptr()


def append_view(
    key_BHkvSD: Tensor, value_BHkvSD: Tensor, past_length_B: Tensor, new_length_B: Tensor | None
) -> structs.AppendArgs:
    """Return innerq_append_args."""
    return structs.AppendArgs(
        tokens=key_BHkvSD.shape[2],
        key_BHkvSD=tokens_view(key_BHkvSD),
        value_BHkvSD=tokens_view(value_BHkvSD),
        past_length_B=past_length_B.data_ptr(),
        new_length_B=pointer(new_length_B),
    )


def attend_view(
    query_BHqSD: Tensor,
    key_BHkvSD: Tensor,
    value_BHkvSD: Tensor,
    out_BHqSD: Tensor,
    past_length_B: Tensor,
    new_length_B: Tensor | None,
    scale: float = 0.0,
    workspace_is_clean: bool = False,
) -> structs.AttendArgs:
    """Return innerq_attend_args; `scale` 0 means 1/sqrt(D)."""
    return structs.AttendArgs(
        query_heads=query_BHqSD.shape[1],
        tokens=query_BHqSD.shape[2],
        query_BHqSD=tokens_view(query_BHqSD),
        key_BHkvSD=tokens_view(key_BHkvSD),
        value_BHkvSD=tokens_view(value_BHkvSD),
        out_BHqSD=tokens_view(out_BHqSD),
        past_length_B=past_length_B.data_ptr(),
        new_length_B=pointer(new_length_B),
        scale=scale,
        workspace_is_clean=int(workspace_is_clean),
    )
