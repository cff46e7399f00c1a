"""The two ops alone: every implementation of them that is here, on the same generated inputs."""

from innerq_export.parity.ops.base import OpBackend, ReferenceOps
from innerq_export.parity.ops.cases import OP_CASES, op_cases
from innerq_export.parity.ops.functions import FunctionOps, distinct_functions
from innerq_export.parity.ops.kernels import KernelOps
from innerq_export.parity.ops.plugin import PluginOps

__all__ = [
    "OP_CASES",
    "FunctionOps",
    "KernelOps",
    "OpBackend",
    "PluginOps",
    "ReferenceOps",
    "distinct_functions",
    "op_cases",
]
