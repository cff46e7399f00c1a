"""Which values of a rewritten graph parity looks at: the new keys and values, queries and outputs of every layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from innerq_export.errors import RewriteError
from innerq_export.spec.ops import APPEND, ATTENTION


@dataclass(frozen=True)
class LayerProbe:
    """Names of values in the main graph; `scale` is the attention's attribute, None for 1 / sqrt(D)."""

    key: str
    value: str
    query: str
    output: str
    scale: float | None

    @property
    def names(self) -> tuple[str, ...]:
        """All names."""
        return (self.key, self.value, self.query, self.output)


def find_probes(path: Path, layers: int) -> tuple[LayerProbe, ...]:
    """Return the probes of every layer of model.onnx, in order. RewriteError if a layer lacks one of the two ops."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    attention_of = {node.input[5]: node for node in graph.node if node.op_type == ATTENTION.name}
    appends = [node for node in graph.node if node.op_type == APPEND.name]
    by_window = {append.output[0]: append for append in appends}
    probes = []
    for layer in range(layers):
        window = f"present_window_{layer}"
        append, attention = by_window.get(window), attention_of.get(window)
        if append is None or attention is None:
            raise RewriteError(
                f"{path.name}: layer {layer} has no {APPEND.name} and {ATTENTION.name} on '{window}'",
                expected=f"{layers} layers with both",
                got=f"{len(appends)} {APPEND.name} nodes",
                fix="build the engine again",
            )
        scale = next((item.f for item in attention.attribute if item.name == "scale"), 0.0)
        names = (append.input[0], append.input[1], attention.input[0], attention.output[0])
        probes.append(LayerProbe(*names, scale or None))
    return tuple(probes)
