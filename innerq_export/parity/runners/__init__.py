"""Ways to run an engine or an op and look inside, each a Polygraphy BaseRunner."""

from innerq_export.parity.runners.base import EngineRunner
from innerq_export.parity.runners.emulated import EmulatedRunner
from innerq_export.parity.runners.onnxruntime import OnnxRuntimeRunner
from innerq_export.parity.runners.op import OpRunner
from innerq_export.parity.runners.ops import OpsRunner

__all__ = ["EmulatedRunner", "EngineRunner", "OnnxRuntimeRunner", "OpRunner", "OpsRunner"]
