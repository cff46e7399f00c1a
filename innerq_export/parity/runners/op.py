"""One op of any backend of parity (function bodies, kernels, plugin) as a Polygraphy BaseRunner."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from polygraphy.datatype import DataType

from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import ACTIVATION, Op

if TYPE_CHECKING:
    from innerq_export.parity.ops.base import OpBackend


class OpRunner(BaseRunner):
    """Fed with arrays or tensors by the names of the op table it answers with the same kind; bf16 needs tensors.

    `scale`: the softmax's, 0 for 1 / sqrt(D).
    """

    def __init__(self, backend: OpBackend, op: Op, config: CacheConfig, dtype: str = "float16", scale: float = 0.0):
        super().__init__(name=f"innerq {op.name} on {backend.name}")
        self._backend, self._op, self._config, self._dtype, self._scale = backend, op, config, dtype, scale

    def get_input_metadata_impl(self) -> TensorMetadata:
        """Return the ports of the op table; every size may vary."""
        metadata = TensorMetadata()
        for port in self._op.inputs_for(self._config, self._backend.layout):
            dtype = self._dtype if port.dtype == ACTIVATION else port.dtype
            metadata.add(port.name, dtype=DataType.from_dtype(getattr(torch, dtype)), shape=[-1] * len(port.shape))
        return metadata

    def infer_impl(self, feed_dict: Mapping[str, Any]) -> OrderedDict[str, Any]:
        """Run once."""
        start = time.perf_counter()
        tensors = all(isinstance(value, torch.Tensor) for value in feed_dict.values())
        inputs = {name: value if tensors else torch.from_numpy(value.copy()) for name, value in feed_dict.items()}
        outputs = self._backend.run(self._op, self._config, inputs, self._scale)
        self.inference_time = time.perf_counter() - start
        return OrderedDict((name, tensor if tensors else tensor.numpy()) for name, tensor in outputs.items())
