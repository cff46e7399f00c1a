"""InnerQAppend and InnerQAttention as ONNX functions whose bodies use standard ops only (`native` lowering)."""

from innerq_export.rewrite.functions.attention import FLAVOURS
from innerq_export.rewrite.functions.build import OPSET, append_function, attention_function

__all__ = ["FLAVOURS", "OPSET", "append_function", "attention_function"]
