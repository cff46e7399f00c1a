"""The nodes of an ONNX file that are no standard ops, held against the creators of the plugin library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from innerq_export.doctor.finding import Finding
from innerq_export.doctor.plugin import BUILD, Creator, PluginLibrary

STANDARD = ("", "ai.onnx", "ai.onnx.ml")
REBUILD = "innerq-export build, with the innerq-export that this library belongs to"


@dataclass(frozen=True)
class CustomNode:
    """A node that some creator must make."""

    name: str
    op: str
    domain: str
    attributes: dict[str, Any]

    @property
    def wanted(self) -> tuple[str, str, str]:
        """(name, version, namespace) by which TensorRT's parser looks for a creator."""
        stated = self.attributes
        return self.op, str(stated.get("plugin_version", "1")), str(stated.get("plugin_namespace", ""))


def custom_nodes(path: Path) -> list[CustomNode]:
    """Return the nodes without a standard op or a function body. Weights are not read."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    bodies = {(function.domain, function.name) for function in model.functions}
    return [
        CustomNode(node.name, node.op_type, node.domain, attributes_of(node))
        for node in model.graph.node
        if node.domain not in STANDARD and (node.domain, node.op_type) not in bodies
    ]


def attributes_of(node: Any) -> dict[str, Any]:
    """Return a node's attributes as plain values."""
    import onnx

    values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def check_nodes(path: Path, library: PluginLibrary | None) -> Iterator[Finding]:
    """Say for every custom node whether the library has its creator; equal answers are counted, not repeated."""
    nodes = custom_nodes(path)
    if not nodes:
        yield Finding("onnx", path.name, "ok", "every node is a standard op or a function: no plugin is needed")
        return
    if library is None:
        kinds = ", ".join(sorted({node.op for node in nodes}))
        text = f"{len(nodes)} nodes ({kinds}) need the plugin library, and there is none"
        yield Finding("onnx", path.name, "problem", text, f"{BUILD}, or --library FILE")
        return
    answers = Counter(judge(node, library) for node in nodes)
    for (name, good, text, fix), count in answers.items():
        yield Finding("onnx", name, "ok" if good else "problem", f"{count} nodes: {text}", fix)


def judge(node: CustomNode, library: PluginLibrary) -> tuple[str, bool, str, str]:
    """Return (op, works, why, fix) of one node."""
    known = {(creator.name, creator.version, creator.namespace): creator for creator in library.creators}
    creator = known.get(node.wanted)
    if creator is None:
        return node.op, False, missing(node, library), REBUILD if library.creators else BUILD
    version = node.attributes.get("spec_version")
    if version != library.spec_version:
        text = f"made for contract {version}, the library implements {library.spec_version}"
        return node.op, False, text, f"{REBUILD}; or {BUILD} with the innerq-export that made the model"
    lacking = unknown_fields(node, creator)
    if lacking:
        return node.op, False, f"attributes {lacking}", REBUILD
    return node.op, True, f"creator {'/'.join(node.wanted)} is there", ""


def missing(node: CustomNode, library: PluginLibrary) -> str:
    """Say what was sought and what the library has."""
    has = ", ".join(f"{creator.name}/{creator.version}/{creator.namespace}" for creator in library.creators)
    return f"no creator {'/'.join(node.wanted)} in {library.path.name}, which has {has or 'none'}"


def unknown_fields(node: CustomNode, creator: Creator) -> str:
    """Return which fields the node lacks or has too many, '' if none."""
    stated = set(node.attributes) - {"plugin_version", "plugin_namespace"}
    parts = [f"{name} missing" for name in creator.fields if name not in stated]
    parts += [f"{name} unknown" for name in sorted(stated - set(creator.fields))]
    return ", ".join(parts)
