"""The structs of plugins/launch/innerq.h as ctypes, field for field; tests hold sizes and offsets to the header."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from typing import Any

STATUS = (
    "INNERQ_OK",
    "INNERQ_INVALID_ARGUMENT",
    "INNERQ_UNSUPPORTED",
    "INNERQ_WORKSPACE_TOO_SMALL",
    "INNERQ_CAPACITY_EXCEEDED",
    "INNERQ_CUDA_ERROR",
)
ACTIVATIONS = ("fp16", "bf16")
FLAG_CAPACITY, FLAG_LENGTH = 1, 2
MAX_ATTEND_TOKENS = 16


class Sized(ctypes.Structure):
    """A struct that opens with its own size, by which the library tells callers of another version."""

    def __init__(self, **fields: Any):
        super().__init__(struct_bytes=ctypes.sizeof(type(self)), **fields)


class Config(Sized):
    """innerq_config: CacheConfig with the head dim and the activation dtype."""

    _fields_ = (
        ("struct_bytes", c_uint32),
        ("spec_version", c_int32),
        ("head_dim", c_int32),
        ("key_bits", c_int32),
        ("key_mode", c_int32),
        ("value_bits", c_int32),
        ("value_mode", c_int32),
        ("group_size", c_int32),
        ("sink", c_int32),
        ("recent", c_int32),
        ("key_norm", c_int32),
        ("activation", c_int32),
    )


class Cache(Sized):
    """innerq_cache: pointers into the cache of one layer; owns nothing."""

    _fields_ = (
        ("struct_bytes", c_uint32),
        ("batch", c_int32),
        ("kv_heads", c_int32),
        ("capacity_blocks", c_int32),
        ("window_B2HkvWD", c_void_p),
        ("blocks", c_void_p),
        ("key_norm_BHkvD", c_void_p),
        ("block_table", c_void_p),
        ("page_blocks", c_int32),
        ("pages", c_int32),
        ("flags", c_void_p),
    )


class Tokens(ctypes.Structure):
    """innerq_tokens: activations [B, H, S, D] with strides in elements."""

    _fields_ = (
        ("data", c_void_p),
        ("stride_batch", c_int64),
        ("stride_head", c_int64),
        ("stride_token", c_int64),
    )


class Build(Sized):
    """innerq_build: what the library says of itself."""

    _fields_ = (
        ("struct_bytes", c_uint32),
        ("spec_version", c_int32),
        ("cuda_version", c_int32),
        ("git_hash", c_char_p),
        ("architectures", c_char_p),
    )


class AppendArgs(Sized):
    """innerq_append_args."""

    _fields_ = (
        ("struct_bytes", c_uint32),
        ("tokens", c_int32),
        ("key_BHkvSD", Tokens),
        ("value_BHkvSD", Tokens),
        ("past_length_B", c_void_p),
        ("new_length_B", c_void_p),
    )


class AttendArgs(Sized):
    """innerq_attend_args."""

    _fields_ = (
        ("struct_bytes", c_uint32),
        ("query_heads", c_int32),
        ("tokens", c_int32),
        ("query_BHqSD", Tokens),
        ("key_BHkvSD", Tokens),
        ("value_BHkvSD", Tokens),
        ("out_BHqSD", Tokens),
        ("past_length_B", c_void_p),
        ("new_length_B", c_void_p),
        ("scale", c_float),
        ("workspace_is_clean", c_int32),
        ("max_past", c_int32),
    )


class DequantiseArgs(Sized):
    """innerq_dequantise_args."""

    _fields_ = (
        ("struct_bytes", c_uint32),
        ("tokens", c_int32),
        ("key_BHkvTD", c_void_p),
        ("value_BHkvTD", c_void_p),
        ("length_B", c_void_p),
    )


class Logical(Sized):
    """innerq_logical: the blocks in the `logical` layout of SPEC section 7."""

    _fields_ = (
        ("struct_bytes", c_uint32),
        ("key_codes_BHkvNB32D", c_void_p),
        ("key_scales_BHkvNB32Dg", c_void_p),
        ("key_zeros_BHkvNB32Dg", c_void_p),
        ("value_codes_BHkvNB32D", c_void_p),
        ("value_scales_BHkvNBD", c_void_p),
        ("value_zeros_BHkvNBD", c_void_p),
        ("length_B", c_void_p),
    )


STRUCTS: dict[str, type[ctypes.Structure]] = {
    "innerq_config": Config,
    "innerq_cache": Cache,
    "innerq_tokens": Tokens,
    "innerq_build": Build,
    "innerq_append_args": AppendArgs,
    "innerq_attend_args": AttendArgs,
    "innerq_dequantise_args": DequantiseArgs,
    "innerq_logical": Logical,
}

_CONFIG, _CACHE, _SIZE, _STREAM = POINTER(Config), POINTER(Cache), POINTER(c_size_t), c_void_p
_WORKSPACE = (c_void_p, c_size_t, _STREAM)
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "innerq_build_info": (POINTER(Build),),
    "innerq_validate": (_CONFIG,),
    "innerq_record_bytes": (_CONFIG, _SIZE),
    "innerq_window_bytes": (_CONFIG, c_int32, c_int32, _SIZE),
    "innerq_blocks_bytes": (_CONFIG, c_int32, c_int32, c_int32, _SIZE),
    "innerq_blocks_of": (_CONFIG, c_int64, POINTER(c_int64)),
    "innerq_append_workspace_bytes": (_CONFIG, _CACHE, c_int32, _SIZE),
    "innerq_append": (_CONFIG, _CACHE, POINTER(AppendArgs), *_WORKSPACE),
    "innerq_attend_workspace_bytes": (_CONFIG, _CACHE, c_int32, c_int32, _SIZE),
    "innerq_attend": (_CONFIG, _CACHE, POINTER(AttendArgs), *_WORKSPACE),
    "innerq_prefill_workspace_bytes": (_CONFIG, _CACHE, c_int32, _SIZE),
    "innerq_prefill": (_CONFIG, _CACHE, POINTER(AttendArgs), *_WORKSPACE),
    "innerq_dequantise": (_CONFIG, _CACHE, POINTER(DequantiseArgs), _STREAM),
    "innerq_to_logical": (_CONFIG, _CACHE, POINTER(Logical), _STREAM),
    "innerq_from_logical": (_CONFIG, _CACHE, POINTER(Logical), _STREAM),
}
