"""Records and logical blocks, each from the other: by the reference, and by the kernels' own conversion."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from innerq_export.integrations import calls, structs, views
from innerq_export.integrations.cache import empty_packed_cache
from innerq_export.parity.compare import Difference, block_difference
from innerq_export.parity.ops.kernels import KernelOps
from innerq_export.reference import Blocks, empty_blocks, pack, unpack
from innerq_export.spec import CacheConfig

_BLOCKS = 3


class ReferencePacking:
    """`reference.pack` and `reference.unpack`."""

    name = "reference"

    def lacks(self, config: CacheConfig, dtype: str) -> str:
        """Nothing."""
        return ""

    def unpack(self, config: CacheConfig, records: Tensor, head_dim: int) -> Blocks:
        """Return the blocks of records [B, Hkv, N, words]."""
        return unpack(config, records, head_dim)

    def pack(self, config: CacheConfig, blocks: Blocks) -> Tensor:
        """Return the records of blocks."""
        return pack(config, blocks)


class KernelPacking:
    """innerq_to_logical and innerq_from_logical of a kernel library."""

    def __init__(self, kernels: KernelOps):
        self.kernels, self.name = kernels, kernels.name

    def lacks(self, config: CacheConfig, dtype: str) -> str:
        """Say why the library cannot run."""
        return self.kernels.lacks(config, "float16")

    def unpack(self, config: CacheConfig, records: Tensor, head_dim: int) -> Blocks:
        """Return the blocks of records [B, Hkv, N, words]."""
        batch, kv_heads, count = records.shape[:3]
        blocks = empty_blocks(config, batch, kv_heads, head_dim, count)
        return self._convert("innerq_to_logical", config, blocks, records)[0]

    def pack(self, config: CacheConfig, blocks: Blocks) -> Tensor:
        """Return the records of blocks."""
        return self._convert("innerq_from_logical", config, blocks, None)[1]

    def _convert(self, name: str, config: CacheConfig, blocks: Blocks, records: Tensor | None) -> tuple[Blocks, Tensor]:
        device, library = self.kernels.device, self.kernels.library
        moved = Blocks.of({part: tensor.to(device) for part, tensor in blocks.tensors().items()})
        batch, kv_heads, count, _, head_dim = blocks.key_codes_BHkvN32D.shape
        cache = empty_packed_cache(config, batch, kv_heads, head_dim, count, device=device)
        if records is not None:
            cache.blocks.copy_(records)
        args = _view(moved)
        config_view, cache_view = views.config_view(cache), views.cache_view(cache)
        with calls.on_device(cache):
            refs = (ctypes.byref(view) for view in (config_view, cache_view, args))
            library.call(name, *refs, calls.stream_of(cache))
        made = Blocks.of({part: tensor.cpu() for part, tensor in moved.tensors().items()})
        return made, cache.blocks.cpu()


def round_trip_fault(
    side: ReferencePacking | KernelPacking, config: CacheConfig, kv_heads: int, head_dim: int, seed: int
) -> Difference | None:
    """Return None if random blocks survive pack and unpack, in the order that the reference writes; else the place.

    A word of a record counts as its channel.
    """
    blocks = random_blocks(config, kv_heads, head_dim, seed)
    records, expected = side.pack(config, blocks), pack(config, blocks)
    if not torch.equal(records, expected):
        return block_difference("records", expected, records, config.sink)
    back = side.unpack(config, records, head_dim).tensors()
    found = (block_difference(part, want, back[part], config.sink) for part, want in blocks.tensors().items())
    return next((difference for difference in found if difference), None)


def random_blocks(config: CacheConfig, kv_heads: int, head_dim: int, seed: int) -> Blocks:
    """Return blocks in which every code of its width, and any scale, may occur."""
    generator = torch.Generator().manual_seed(seed)
    empty = empty_blocks(config, 1, kv_heads, head_dim, _BLOCKS)

    def draw(part: str, like: Tensor) -> Tensor:
        half = 2 ** ((config.key_bits if part.startswith("key") else config.value_bits) - 1)
        if part.endswith("codes"):
            return torch.randint(-half, half, like.shape, generator=generator, dtype=torch.int8)
        return torch.randn(like.shape, generator=generator).half()

    return Blocks.of({part: draw(part, tensor) for part, tensor in empty.tensors().items()})


def _view(blocks: Blocks) -> structs.Logical:
    return structs.Logical(
        key_codes_BHkvNB32D=blocks.key_codes_BHkvN32D.data_ptr(),
        key_scales_BHkvNB32Dg=blocks.key_scales_BHkvN32E.data_ptr(),
        key_zeros_BHkvNB32Dg=views.pointer(blocks.key_zeros_BHkvN32E),
        value_codes_BHkvNB32D=blocks.value_codes_BHkvN32D.data_ptr(),
        value_scales_BHkvNBD=blocks.value_scales_BHkvND.data_ptr(),
        value_zeros_BHkvNBD=views.pointer(blocks.value_zeros_BHkvND),
        length_B=None,
    )
