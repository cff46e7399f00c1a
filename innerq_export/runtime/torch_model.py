"""transformers' own model of a checkpoint on a device, with its attention answered by the session's cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from innerq_export.artifacts import Checkpoint, ModelShape
from innerq_export.graph.from_config import building_a_model, parsed_config
from innerq_export.runtime.torch_attention import NAME
from innerq_export.runtime.torch_weights import ROW, check_ranks, load_weights, styles_of

_FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
COMPILER: Any = "inductor"
"""The backend of torch.compile."""


@dataclasses.dataclass(frozen=True)
class Ranks:
    """Which of `count` processes this is; `group` is torch.distributed's, None for one process."""

    rank: int = 0
    count: int = 1
    group: Any = None


def load_model(
    checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, ranks: Ranks | None = None
) -> tuple[Any, ModelShape]:
    """Return the model, in evaluation mode, and the shape of this rank's part of it.

    Weights go from the safetensors files straight to `device`, each rank reads its own slices. Raises CheckpointError,
    and ConfigError for a model that cannot be split into `ranks`.
    """
    ranks, shape = ranks or Ranks(), checkpoint.shape
    check_ranks(shape, ranks.count)
    whole, styles = dict(checkpoint.config), {}
    if ranks.count > 1:
        styles = styles_of(empty_model(whole, dtype, torch.device("meta")))
    factors = _factors(checkpoint, dtype) if checkpoint.key_norm else None
    model = empty_model(_part_of(whole, shape, styles, ranks.count), dtype, device)
    load_weights(model, checkpoint, styles, ranks.rank, ranks.count, factors)
    for name, style in styles.items():
        if style == ROW:
            _sum_over(model.get_submodule(name), ranks.group)
    part = dataclasses.replace(shape, heads=shape.heads // ranks.count, kv_heads=shape.kv_heads // ranks.count)
    return model, part


def empty_model(config: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> Any:
    """Return the model of a config.json with uninitialised weights on `device`.

    Only classes of the installed transformers are used, never code of the checkpoint. Raises CheckpointError.
    """
    with building_a_model(), no_init_weights(), device:
        model = AutoModelForCausalLM.from_config(parsed_config(config), dtype=dtype, attn_implementation=NAME)
    model.tie_weights()
    return model.eval().requires_grad_(False)


def compile_layers(model: Any) -> None:
    """Let torch compile the decoder layer, once for all layers, with each layer's parallel projections as one product.

    Costs seconds at the first step of every batch size. What lies before and behind the layers is compiled too.
    """
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    base = model.base_model
    for layer in base.layers:
        for module in list(layer.modules()):
            _fuse(module)
        layer.compile(fullgraph=True, dynamic=False, backend=_compile)
    for child in base.children():
        if child is not base.layers and not isinstance(child, nn.Embedding):
            child.compile(dynamic=False, backend=_compile)


def is_compiled(model: Any) -> bool:
    """Whether `compile_layers` was called on a model."""
    return model.base_model.layers[0]._compiled_call_impl is not None


def _compile(module: fx.GraphModule, inputs: list[Tensor]) -> Any:
    """Hand a graph to the compiler, equal products in it made one: that of a weight which `Shared` modules share.

    Products of a single row become tuned reductions where inductor can: they read weights faster than cuBLAS then.
    """
    seen: dict[Any, Any] = {}
    for node in list(module.graph.nodes):
        if node.target is nn.functional.linear:
            first = seen.setdefault((node.args, tuple(node.kwargs.items())), node)
            if first is not node:
                node.replace_all_uses_with(first)
                module.graph.erase_node(node)
    module.recompile()
    compiler = COMPILER if callable(COMPILER) else torch._dynamo.lookup_backend(COMPILER)
    rows = {node.args[0].meta["example_value"].shape[:-1].numel() for node in seen.values()}
    with torch._inductor.config.patch(coordinate_descent_tuning=rows == {1}):
        return compiler(module, inputs)


class Shared(nn.Module):
    """Rows `start` .. `stop` of a product that parallel projections of one input share.

    Compiled, each of them asks for the whole product and `_compile` makes them one; eager, each computes its rows.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, start: int, stop: int):
        super().__init__()
        self.weight, self.bias, self.start, self.stop = weight, bias, start, stop

    def forward(self, x: Tensor) -> Tensor:
        """Return x times these rows, transposed, plus their bias."""
        if torch.compiler.is_compiling():
            return nn.functional.linear(x, self.weight, self.bias)[..., self.start : self.stop]
        rows = slice(self.start, self.stop)
        return nn.functional.linear(x, self.weight[rows], None if self.bias is None else self.bias[rows])


def _fuse(module: nn.Module) -> None:
    """Replace parallel linear layers by `Shared` ones over one weight; hooked or unlike ones stay as they are."""
    for names in _FUSED:
        parts = [getattr(module, name, None) for name in names]
        if not all(type(part) is nn.Linear and not part._forward_hooks for part in parts):
            continue
        linears = [part for part in parts if isinstance(part, nn.Linear)]
        if len({part.bias is None for part in linears}) > 1:
            continue
        weights: list[Tensor] = [part.weight for part in linears]
        weight = nn.Parameter(torch.cat(weights), requires_grad=False)
        biases: list[Tensor] = [part.bias for part in linears if part.bias is not None]
        bias = nn.Parameter(torch.cat(biases), requires_grad=False) if biases else None
        start = 0
        for name, part in zip(names, linears, strict=True):
            setattr(module, name, Shared(weight, bias, start, start + part.out_features))
            start += part.out_features


def _factors(checkpoint: Checkpoint, dtype: torch.dtype) -> Mapping[str, np.ndarray]:
    """Return what the checkpoint's key norm multiplies rows of weights by."""
    from innerq_export.graph.fold import fold_factors
    from innerq_export.graph.skeleton import build_skeleton

    assert checkpoint.key_norm is not None
    model = build_skeleton(checkpoint.config, dtype)
    return fold_factors(model, checkpoint.shape, checkpoint.key_norm.lambda_LHkvD)


def _part_of(config: dict[str, Any], shape: ModelShape, styles: Mapping[str, str], count: int) -> dict[str, Any]:
    """Return the config of one rank: its heads, and its part of the MLP where the plan splits that."""
    if count == 1:
        return config
    part = config | {
        "num_attention_heads": shape.heads // count,
        "num_key_value_heads": shape.kv_heads // count,
        "head_dim": shape.head_dim,
    }
    if any(".mlp." in name for name in styles):
        part["intermediate_size"] = config["intermediate_size"] // count
    return part


def _sum_over(module: nn.Module, group: Any) -> None:
    """Add up the ranks' outputs of a rowwise module."""
    from torch.distributed._functional_collectives import all_reduce

    module.register_forward_hook(lambda _module, _inputs, output: all_reduce(output, "sum", group))
