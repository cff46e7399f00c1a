"""Stage 2: a checkpoint, or an ONNX file of the user's, becomes a `Graph`: opset 23, weights by reference."""

from innerq_export.graph.export import export_graph
from innerq_export.graph.materialise import write_casts
from innerq_export.graph.open import open_graph
from innerq_export.graph.store import TraceStore

__all__ = ["TraceStore", "export_graph", "open_graph", "write_casts"]
