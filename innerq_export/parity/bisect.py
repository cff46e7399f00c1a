"""`--bisect`: the smallest piece of a failing engine as an ONNX of its own, with inputs and expected outputs.

An op that is wrong becomes one node with its function, fed with what it was fed when it failed (only the sequence that
failed); otherwise the graph is cut at the nearest values that were found right. `polygraphy run` reads the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from innerq_export.artifacts import Checkpoint
from innerq_export.errors import UserError
from innerq_export.spec.ops import APPEND, ATTENTION, Op

if TYPE_CHECKING:
    import onnx
    from torch import Tensor

    from innerq_export.engine.manifest import Manifest
    from innerq_export.parity.call import Call
    from innerq_export.parity.check import Checked
    from innerq_export.parity.report import Finding

PIECE, INPUTS, EXPECTED = "piece.onnx", "inputs.json", "expected.json"
Tensors = Mapping[str, "Tensor"]


def write_piece(folder: Path, checked: Checked, source: Checkpoint | Path | None, output: Path) -> str:
    """Write the files into `output` and return a line that says what they are and how to run them.

    UserError for a finding of which no piece can be cut (packing, plugin, as shipped, another machine).
    """
    from innerq_export.engine.folder import read_manifest

    finding, manifest = checked.report.finding, read_manifest(folder)
    assert finding is not None
    output.mkdir(parents=True, exist_ok=True)
    if finding.rung == "op":
        what = _op_alone(folder, manifest, finding, output)
    elif checked.call is not None and finding.rung in ("cache", "attention"):
        what = _op_as_it_ran(folder, manifest, finding, checked.call, output)
    elif checked.call is not None and finding.rung != "as shipped":
        what = _graph_piece(folder, manifest, finding, checked.call, output)
    else:
        raise UserError(f"rung '{finding.rung}' has no piece to cut", fix=finding.advice)
    return f"bisect: {what} in {output / PIECE}\n  run: polygraphy run {output / PIECE} --onnxrt --load-inputs " + (
        f"{output / INPUTS} --load-outputs {output / EXPECTED} --compare snr --snr-threshold 40"
    )


def _op_alone(folder: Path, manifest: Manifest, finding: Finding, output: Path) -> str:
    """The generated call of rung 'op' that failed."""
    from innerq_export.parity.ops import op_cases
    from innerq_export.spec.ops import resolve

    op = ATTENTION if "attention" in finding.what else APPEND
    seed = int(finding.case.rpartition(" ")[2])
    case = op_cases(manifest.cache, manifest.model, manifest.dtype, seed // 100)[seed % 100]
    inputs = resolve(op.generator)(manifest.cache, "logical", case)
    return _write_op(folder, manifest, op, finding.layer or 0, inputs, output)


def _op_as_it_ran(folder: Path, manifest: Manifest, finding: Finding, call: Call, output: Path) -> str:
    """The op of the failing layer with the call's own tensors; the cache is the reference's."""
    from innerq_export.reference.ops import tensors_of

    layer, seen = finding.layer or 0, call.seen.layers[finding.layer or 0]
    inputs = {
        "key": seen.key_BHkvSD,
        "value": seen.value_BHkvSD,
        "past_length": call.past_length_B,
        "new_length": call.new_length_B,
    }
    if finding.rung == "cache":
        op, inputs = APPEND, inputs | tensors_of(call.caches[layer], "logical", "past")
    else:
        cache = tensors_of(call.append(layer), "logical", "present")
        op, inputs = ATTENTION, {"query": seen.query_BHqSD} | inputs | cache
    b = finding.sequence or 0
    return _write_op(folder, manifest, op, layer, {name: x[b : b + 1] for name, x in inputs.items()}, output)


def _write_op(folder: Path, manifest: Manifest, op: Op, layer: int, inputs: Tensors, output: Path) -> str:
    import onnx

    from innerq_export.parity.ops import FunctionOps, ReferenceOps

    functions = FunctionOps(folder / "model.onnx", layer)
    finite = {name: x.nan_to_num() if name in ("key", "value") else x for name, x in inputs.items()}
    expected = ReferenceOps().run(op, manifest.cache, finite, functions.scale)
    onnx.save(functions.piece(op, manifest.cache, manifest.dtype), output / PIECE)
    _write_data(finite, expected, output)
    return f"{op.name} of layer {layer}, alone"


def _graph_piece(folder: Path, manifest: Manifest, finding: Finding, call: Call, output: Path) -> str:
    """The graph between the attention outputs that were right and the keys, values or logits that are wrong."""
    import onnx

    from innerq_export.parity.runners.probe import find_probes

    if call.model is None:
        raise UserError(f"rung '{finding.rung}' needs PyTorch's side to be cut", fix="name the checkpoint with --model")
    probes = find_probes(folder / "model.onnx", manifest.model.layers)
    layer = finding.layer if finding.rung == "keys and values" else None
    below = range(manifest.model.layers if layer is None else layer)
    alone = _OneSequence(call, finding.sequence or 0)
    inputs = alone.inputs | {probes[index].output: alone.of(call.seen.layers[index].output_BHqSD, 2) for index in below}
    said = call.torch_said
    if layer is not None:
        pair = (probes[layer].key, said.keys[layer]), (probes[layer].value, said.values[layer])
        expected = {name: alone.of(tensor, 2) for name, tensor in pair}
    elif _gives_all_logits(folder / "model.onnx"):
        expected = {"logits": alone.of(said.logits_BSV, 1)}
    else:
        expected = {"logits": said.logits_BV[alone.sequence, None, None]}
    onnx.save(cut(folder / "model.onnx", inputs, expected), output / PIECE)
    used = {value.name for value in onnx.load(output / PIECE).graph.input}
    _write_data({name: x for name, x in inputs.items() if name in used}, expected, output)
    return f"the graph from attention outputs to {', '.join(expected)}"


def cut(path: Path, inputs: Tensors, outputs: Tensors) -> onnx.ModelProto:
    """Return the part of the model that makes `outputs` from `inputs`, with its weights inside."""
    from onnx import helper

    from innerq_export.integrations.polygraphy import load_whole

    model = load_whole(path)
    maker = {name: node for node in model.graph.node for name in node.output}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    kept, used, waiting = [], [], list(outputs)
    done: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in done or not name:
            continue
        done.add(name)
        if name in inputs or name in weights:
            used.append(name)
        elif (node := maker.get(name)) is not None:
            kept.append(node.output[0])
            waiting += node.input
    nodes = [node for node in model.graph.node if node.output[0] in kept]
    types = {value.name: value for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    needed = [_value(name, types, inputs[name]) for name in inputs if name in used]
    made = [_value(name, types, outputs[name]) for name in outputs]
    graph = helper.make_graph(nodes, "piece", needed, made, [weights[name] for name in used if name in weights])
    imports = list(model.opset_import)
    return helper.make_model(graph, functions=model.functions, opset_imports=imports, ir_version=model.ir_version)


def _value(name: str, types: Mapping[str, onnx.ValueInfoProto], tensor: Tensor) -> onnx.ValueInfoProto:
    """Return what the model says of a value, else what the tensor is."""
    from onnx import helper

    if name in types:
        return types[name]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(tensor.numpy().dtype), None)


@dataclass(frozen=True)
class _OneSequence:
    """One sequence of a call without padding."""

    call: Call
    sequence: int

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the graph is fed with."""
        import torch

        position_BS = self.call.past_length_B[:, None].long() + torch.arange(self.call.ids_BS.shape[1])
        new_length_B = self.call.new_length_B[self.sequence :][:1]
        return {
            "input_ids": self.of(self.call.ids_BS, 1),
            "position_ids": self.of(position_BS, 1),
            "new_length": new_length_B,
        }

    def of(self, tensor: Tensor, axis: int) -> Tensor:
        """Return this sequence's new tokens, which lie along `axis`."""
        new = int(self.call.new_length_B[self.sequence])
        return tensor[self.sequence :][:1].narrow(axis, 0, new).contiguous()


def _gives_all_logits(path: Path) -> bool:
    """Whether the model answers with the logits of every token, not only of the last."""
    import onnx

    outputs = onnx.load(path, load_external_data=False).graph.output
    logits = next(value for value in outputs if value.name == "logits")
    return logits.type.tensor_type.shape.dim[1].dim_value != 1


def _write_data(inputs: Tensors, expected: Tensors, output: Path) -> None:
    from polygraphy.comparator import IterationResult, RunResults
    from polygraphy.json import save_json

    from innerq_export.parity.recording import quiet

    save_json([{name: tensor.numpy() for name, tensor in inputs.items()}], str(output / INPUTS))
    results = RunResults()
    arrays = {name: tensor.numpy() for name, tensor in expected.items()}
    results.append(("the reference", [IterationResult(arrays, runtime=0.0)]))
    with quiet():
        results.save(str(output / EXPECTED))
