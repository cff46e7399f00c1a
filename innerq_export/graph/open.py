"""A decoder ONNX file of the user's -> Graph."""

from __future__ import annotations

from pathlib import Path

from innerq_export.artifacts import Graph
from innerq_export.progress import Progress, Silent


def open_graph(path: str | Path, progress: Progress | None = None) -> Graph:
    """Return the decoder in the ONNX file `path`; its sizes come from a config.json beside it, else from the graph.

    Expects opset 18 or later (converted to 23 where older), an input `input_ids` int64 [B, S] and a first output
    `logits` [B, S, V]. Weights stay where they are; external data must lie in the file's folder.
    Raises CheckpointError.
    """
    with (progress or Silent()).stage("reading ONNX") as step:
        step.advance(0.0, "loading onnx")
        from innerq_export.graph.user_onnx import read_graph

        return read_graph(Path(path).absolute())
