"""Stage 4: a rewritten model on disk, its weights beside it: links to the checkpoint where possible."""

from innerq_export.onnx_io.load import load_onnx
from innerq_export.onnx_io.save import DATA_NAME, MODEL_NAME, save_onnx
from innerq_export.onnx_io.share import share_weights

__all__ = ["DATA_NAME", "MODEL_NAME", "load_onnx", "save_onnx", "share_weights"]
