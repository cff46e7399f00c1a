"""InnerQAppend and InnerQAttention as ONNX functions whose bodies use standard ops only (`native` lowering)."""

from innerq_export.rewrite.functions.build import FLAVOURS, Geometry, append_function, attention_function

__all__ = ["FLAVOURS", "Geometry", "append_function", "attention_function"]
