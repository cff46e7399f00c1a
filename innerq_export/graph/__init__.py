"""Stage 2: a checkpoint becomes a `Graph`: ONNX opset 23, standard `Attention`, weights by reference."""

from innerq_export.graph.export import export_graph

__all__ = ["export_graph"]
