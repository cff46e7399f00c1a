"""The TensorRT plugin, driven through IPluginV3 by the plugin host program: enqueue and all that comes before it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from innerq_export.integrations.resolve import CHECKOUT
from innerq_export.parity.ops.plugin_host import PluginHost, fields, tensors
from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import ACTIVATION, APPEND, Op, attributes_of

LIBRARY, PROGRAM = "INNERQ_PLUGIN_LIBRARY", "INNERQ_PLUGIN_PROGRAM"
_BUILT = CHECKOUT / "build" / "plugin_host"
_PLACES = {
    LIBRARY: (_BUILT / "library" / "libinnerq_trt.so", _BUILT / "library" / "libinnerq_trt_host.so"),
    PROGRAM: (_BUILT / "program" / "plugin_host",),
}
_TYPES = {"float16": "half", "bfloat16": "bf16", "int32": "int32"}
_SPARE_WORKSPACE = 1 << 24


class PluginOps:
    """The plugin library of INNERQ_PLUGIN_LIBRARY in the program of INNERQ_PLUGIN_PROGRAM, or what a checkout built.

    `scripts/build_plugin_host.sh` builds both. Caches are aliased, past and present one buffer, as in an engine.
    """

    layout = "packed"

    def __init__(self, library: Path | None = None, program: Path | None = None):
        self.library, self.program = library or _find(LIBRARY), program or _find(PROGRAM)
        self._made: dict[tuple[str, CacheConfig, float], str] = {}

    @property
    def kind(self) -> str:
        """'host' for the host build of the library, else 'cuda'."""
        return "host" if self.library and "host" in self.library.name else "cuda"

    @property
    def name(self) -> str:
        """Whose memory and kernels the plugin uses."""
        return "plugin (host)" if self.kind == "host" or not self.library else "plugin (GPU)"

    def lacks(self, config: CacheConfig, dtype: str) -> str:
        """Say that library, program or card is missing, or that the plugin has no kernel of this type."""
        if not self.library or not self.program:
            return f"no plugin host: run scripts/build_plugin_host.sh, or set {LIBRARY} and {PROGRAM}"
        if self.kind == "cuda" and not torch.cuda.is_available():
            return "no CUDA card"
        return "the plugin takes float16 and bfloat16, not float32" if dtype == "float32" else ""

    def close(self) -> None:
        """End the program, if it was started."""
        if "_host" in self.__dict__:
            self._host.close()

    def run(self, op: Op, config: CacheConfig, inputs: Mapping[str, Tensor], scale: float = 0.0) -> dict[str, Tensor]:
        """Enqueue the op once, in buffers of its own."""
        plugin = self._plugin(op, config, scale)
        ports = op.inputs_for(config, self.layout)
        activation = inputs["key"].dtype
        with TemporaryDirectory(prefix="innerq-plugin-") as folder:
            entries = [self._upload(Path(folder), port.name, inputs[port.name]) for port in ports]
            outputs = self._outputs(op, config, inputs, activation)
            words = tensors([*entries, *outputs.values()], len(entries))
            bare = [("null" if str(word).startswith("buffer.") else word) for word in words]
            self._host.ok("shape_change", plugin, *bare)
            self._host.ok("buffer", "buffer.work", _workspace_bytes(inputs))
            self._host.ok("enqueue", plugin, "0", "buffer.work", 1, *words)
            self._host.ok("sync", "0")
            types = {port.name: activation if port.dtype == ACTIVATION else None for port in op.outputs}
            return {
                name: self._download(Path(folder), entry, types[name] or _torch_type(entry[1]))
                for name, entry in outputs.items()
            }

    @cached_property
    def _host(self) -> PluginHost:
        assert self.library and self.program
        host = PluginHost(self.program)
        host.ok("load", self.library)
        return host

    def _plugin(self, op: Op, config: CacheConfig, scale: float) -> str:
        known = (op.name, config, scale)
        if known not in self._made:
            name = f"plugin{len(self._made)}"
            self._host.ok("create", f"{name}.build", op.name, "build", *fields(attributes_of(op, config, scale)))
            self._host.ok("recreate", f"{name}.build", f"{name}.engine", "runtime", 0)
            self._host.ok("attach", f"{name}.engine", name)
            self._made[known] = name
        return self._made[known]

    def _upload(self, folder: Path, name: str, tensor: Tensor) -> tuple[str, str, tuple[int, ...]]:
        path, buffer = folder / "to.bin", f"buffer.{name}"
        path.write_bytes(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        self._host.ok("buffer", buffer, tensor.nbytes)
        self._host.ok("write", buffer, path)
        return buffer, _TYPES[str(tensor.dtype).removeprefix("torch.")], tuple(tensor.shape)

    def _outputs(
        self, op: Op, config: CacheConfig, inputs: Mapping[str, Tensor], activation: torch.dtype
    ) -> dict[str, tuple[str, str, tuple[int, ...]]]:
        if op is not APPEND:
            query = inputs["query"]
            self._host.ok("buffer", "buffer.output", query.nbytes)
            return {"output": ("buffer.output", _TYPES[str(activation).removeprefix("torch.")], tuple(query.shape))}
        entries = {}
        for port in op.outputs_for(config, self.layout):
            past = port.name.replace("present", "past")
            kind = _TYPES[str(inputs[past].dtype).removeprefix("torch.")]
            entries[port.name] = (f"buffer.{past}", kind, tuple(inputs[past].shape))
        return entries

    def _download(self, folder: Path, entry: tuple[str, str, tuple[int, ...]], dtype: torch.dtype) -> Tensor:
        path = folder / "from.bin"
        self._host.ok("read", entry[0], path)
        return torch.frombuffer(bytearray(path.read_bytes()), dtype=dtype).reshape(entry[2])


def _find(variable: str) -> Path | None:
    named = os.environ.get(variable)
    return next((path for path in ([Path(named)] if named else _PLACES[variable]) if path.is_file()), None)


def _torch_type(word: str) -> torch.dtype:
    return {"half": torch.float16, "bf16": torch.bfloat16, "int32": torch.int32}[word]


def _workspace_bytes(inputs: Mapping[str, Tensor]) -> int:
    """Return room for prefill over a full cache, more than any call here asks for."""
    window = next(tensor for name, tensor in inputs.items() if name.endswith("window"))
    blocks = next(tensor for name, tensor in inputs.items() if name.endswith("blocks"))
    batch, _, kv_heads, tokens, head_dim = window.shape
    return _SPARE_WORKSPACE + 4 * batch * kv_heads * (tokens + 32 * blocks.shape[2]) * head_dim
