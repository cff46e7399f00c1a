"""A stack of layers driven through the plugin, beside it the same through the C ABI, and the torch reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from innerq_export import reference
from innerq_export.reference.packed import pack
from innerq_export.spec import KEY_NORMS, MODES, CacheConfig, record_bytes
from innerq_export.spec.ops import OPS, attributes_of
from tests.plugin.host import PluginHost, dims, fields, tensors

CACHE = ("window", "key_norm", "blocks")
LEFT, RIGHT = "plugin", "abi"


@dataclass(frozen=True)
class Sizes:
    """B sequences, Hq / Hkv heads, D channels, NB blocks; `dtype` of the activations."""

    batch: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    capacity: int = 12
    layers: int = 2
    dtype: torch.dtype = torch.float16

    @property
    def kind(self) -> str:
        return "bf16" if self.dtype == torch.bfloat16 else "half"


@dataclass(frozen=True)
class Step:
    """One call of a layer: new tokens and their lengths."""

    query: Tensor
    key: Tensor
    value: Tensor
    new_length: Tensor

    @property
    def tokens(self) -> int:
        return self.key.shape[2]


class Stack:
    """One execution context: clones of the two plugins per layer, caches for both sides, one workspace."""

    def __init__(self, host: PluginHost, folder: Path, config: CacheConfig, sizes: Sizes, name="c", stream="0"):
        self.host, self.folder, self.config, self.sizes = host, folder, config, sizes
        self.name, self.stream = name, stream
        self.past = torch.zeros(sizes.batch, dtype=torch.int32)
        cache = (config, sizes.batch, sizes.kv_heads, sizes.head_dim, sizes.capacity)
        self.references = [reference.empty_cache(*cache, dtype=sizes.dtype) for _ in range(sizes.layers)]
        self.shapes = self._cache_shapes()
        self._make_plugins()
        for side in (LEFT, RIGHT):
            for layer in range(sizes.layers):
                self._make_cache(side, layer)
            host.ok("buffer", f"{name}.{side}.work", self._workspace_bytes())

    def _cache_shapes(self) -> dict[str, tuple[int, ...]]:
        s, window = self.sizes, self.config.window_tokens
        words = record_bytes(self.config, s.head_dim) // 4
        return {
            "window": (s.batch, 2, s.kv_heads, window, s.head_dim),
            "key_norm": (s.batch, s.kv_heads, s.head_dim),
            "blocks": (s.batch, s.kv_heads, s.capacity, words),
        }

    def _workspace_bytes(self) -> int:
        """Return room for prefill over a full cache, and more than decoding ever asks for."""
        s, tokens = self.sizes, self.config.window_tokens + 32 * self.sizes.capacity
        return (1 << 24) + 4 * s.batch * s.kv_heads * tokens * s.head_dim

    def _make_plugins(self) -> None:
        for name, op in OPS.items():
            build, engine = f"{self.name}.{name}.build", f"{self.name}.{name}.engine"
            self.host.ok("create", build, name, "build", *fields(attributes_of(op, self.config)))
            self.host.ok("recreate", build, engine, "runtime", 0)
            for layer in range(self.sizes.layers):
                self.host.ok("attach", engine, f"{self.name}.{name}.{layer}")

    def _make_cache(self, side: str, layer: int) -> None:
        for part, shape in self.shapes.items():
            size = {"blocks": 4}.get(part, 2)
            self.host.ok("buffer", self.buffer(side, layer, part), size * torch.Size(shape).numel())
        ones = torch.ones(self.shapes["key_norm"], dtype=torch.float16)
        self.write(self.buffer(side, layer, "key_norm"), ones)

    def buffer(self, side: str, layer: int, part: str) -> str:
        return f"{self.name}.{side}.{layer}.{part}"

    def write(self, buffer: str, tensor: Tensor) -> None:
        path = self.folder / "to.bin"
        path.write_bytes(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        self.host.ok("write", buffer, path)

    def read(self, buffer: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        path = self.folder / "from.bin"
        self.host.ok("read", buffer, path)
        return torch.frombuffer(bytearray(path.read_bytes()), dtype=dtype).reshape(shape)

    def random_step(self, new: list[int], seed: int, tokens: int = 0) -> Step:
        """Return random tokens, NaN behind each sequence's new length: padding that nobody may look at."""
        s, generator = self.sizes, torch.Generator().manual_seed(seed)
        tokens = tokens or max(new)

        def draw(heads: int, gain: float) -> Tensor:
            values = gain * torch.randn(s.batch, heads, tokens, s.head_dim, generator=generator)
            for b, length in enumerate(new):
                values[b, :, length:] = torch.nan
            return values.to(s.dtype)

        return Step(draw(s.heads, 2.0), draw(s.kv_heads, 1.0), draw(s.kv_heads, 1.0), torch.tensor(new).int())

    def upload(self, layer: int, step: Step) -> None:
        """Put the inputs of one layer into (new) buffers; poison its outputs."""
        inputs = {"query": step.query, "key": step.key, "value": step.value, "past": self.past, "new": step.new_length}
        for name, tensor in inputs.items():
            buffer = self.buffer("in", layer, name)
            self.host.ok("buffer", buffer, tensor.nbytes)
            self.write(buffer, tensor)
        for side in (LEFT, RIGHT):
            self.host.ok("buffer", self.buffer(side, layer, "out"), step.query.nbytes)

    def call_words(self, op: str, layer: int, tokens: int) -> list[object]:
        """Return the words of the tensors of a plugin call, caches aliased."""
        s, kind = self.sizes, self.sizes.kind
        new = (s.batch, s.kv_heads, tokens, s.head_dim)
        query = (s.batch, s.heads, tokens, s.head_dim)
        types = {"window": kind, "key_norm": "half", "blocks": "int32"}
        caches = [(self.buffer(LEFT, layer, part), types[part], self.shapes[part]) for part in CACHE]
        fed = {"query": query, "key": new, "value": new, "past": (s.batch,), "new": (s.batch,)}
        entries = {
            name: (self.buffer("in", layer, name), "int32" if name in ("past", "new") else kind, shape)
            for name, shape in fed.items()
        }
        query_entry = entries.pop("query")
        inputs = [*entries.values(), *caches]
        if op == "InnerQAppend":
            return tensors([*inputs, *caches], len(inputs))
        output = (self.buffer(LEFT, layer, "out"), kind, query)
        return tensors([query_entry, *inputs, output], len(inputs) + 1)

    def enqueue(self, op: str, layer: int, tokens: int, repeat: int = 1) -> dict:
        words = (f"{self.name}.{op}.{layer}", self.stream, f"{self.name}.{LEFT}.work", repeat)
        return self.host.call("enqueue", *words, *self.call_words(op, layer, tokens))

    def run_plugin(self, layer: int, tokens: int, *, change: bool = True) -> None:
        """Issue append and attention of one layer; `change`: with onShapeChange first, as after new bindings."""
        for op in OPS:
            if change:
                inputs = self.call_words(op, layer, tokens)
                self.host.ok("shape_change", f"{self.name}.{op}.{layer}", *without_buffers(inputs))
            answer = self.enqueue(op, layer, tokens)
            assert answer["status"] == 0 and not answer["log"], answer

    def abi_words(self, layer: int, stream: str, repeat: int) -> list[object]:
        c, s = self.config, self.sizes
        modes = (s.head_dim, c.key_bits, MODES.index(c.key_mode), c.value_bits, MODES.index(c.value_mode))
        rest = (c.sink, c.recent, KEY_NORMS.index(c.key_norm), int(s.dtype == torch.bfloat16))
        caches = [self.buffer(RIGHT, layer, part) for part in CACHE]
        return [*modes, *rest, s.batch, s.kv_heads, s.capacity, *caches, stream, repeat]

    def run_abi(self, layer: int, tokens: int, repeat: int = 1) -> tuple[dict, dict]:
        common = self.abi_words(layer, self.stream, repeat)
        key, value, past, new, query = (self.buffer("in", layer, n) for n in ("key", "value", "past", "new", "query"))
        work, out = f"{self.name}.{RIGHT}.work", self.buffer(RIGHT, layer, "out")
        append = self.host.ok("abi_append", *common, tokens, key, value, past, new, work)
        heads = self.sizes.heads
        attend = self.host.ok("abi_attend", *common, heads, tokens, query, key, value, past, new, out, work)
        return append, attend

    def check_equal(self, layer: int) -> None:
        """Cache and output of both sides are the same bytes."""
        assert self.host.ok("sync", self.stream)["cuda_error"] == ""
        for part in (*CACHE, "out"):
            first = self.host.ok("differ", self.buffer(LEFT, layer, part), self.buffer(RIGHT, layer, part))["first"]
            assert first == -1, f"layer {layer}: {part} differs from the C ABI at byte {first}"

    def check_reference(self, layer: int, step: Step) -> float:
        """Advance the reference; cache equal, and return the worst dB of the output over heads and tokens."""
        cache = reference.append(self.references[layer], step.key, step.value, step.new_length)
        self.references[layer] = cache
        expected = reference.attend(cache, step.query, step.key, step.value, self.past, step.new_length)
        got = self.read(self.buffer(LEFT, layer, "out"), self.sizes.dtype, tuple(step.query.shape))
        blocks = self.read(self.buffer(LEFT, layer, "blocks"), torch.int32, self.shapes["blocks"])
        packed = pack(self.config, cache.blocks)
        for b in range(self.sizes.batch):
            held = cache.blocks_held(b)
            assert torch.equal(blocks[b, :, :held], packed[b, :, :held]), f"layer {layer}, sequence {b}: records"
        return min(
            decibels(expected[b, :, :length], got[b, :, :length]) for b, length in enumerate(step.new_length) if length
        )

    def step(self, new: list[int], seed: int, *, check: bool = True) -> float:
        """Run one step of every layer on both sides; return the worst dB against the reference."""
        worst = float("inf")
        for layer in range(self.sizes.layers):
            step = self.random_step(new, 1000 * seed + layer)
            self.upload(layer, step)
            self.run_plugin(layer, step.tokens)
            self.run_abi(layer, step.tokens)
            self.check_equal(layer)
            if check:
                worst = min(worst, self.check_reference(layer, step))
        self.past += torch.tensor(new, dtype=torch.int32)
        return worst


def decibels(expected: Tensor, got: Tensor) -> float:
    """Return the smallest 20 log10(|expected| / |difference|) over heads and tokens of [H, S, D]."""
    signal = expected.double().norm(dim=-1)
    noise = (expected.double() - got.double()).norm(dim=-1)
    assert not noise.isnan().any(), "NaN in the output"
    return float((20 * torch.log10(signal / noise.clamp(min=1e-30))).min())


def without_buffers(words: list[object]) -> list[object]:
    """Return the words of tensors with every buffer name replaced by 'null' (onShapeChange sees no memory)."""
    return [("null" if isinstance(word, str) and "." in word else word) for word in words]


__all__ = ["LEFT", "RIGHT", "Sizes", "Stack", "Step", "decibels", "dims"]
