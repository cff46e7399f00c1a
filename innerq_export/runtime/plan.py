"""A TensorRT or TensorRT-RTX plan, loaded: its tensors and one execution context. Only API that both have is used."""

from __future__ import annotations

import importlib
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from innerq_export.engine.backend_record import BackendRecord
from innerq_export.engine.logger import quiet_logger
from innerq_export.engine.plugin_library import register
from innerq_export.engine.tensorrt_rtx import PLAN_NAME
from innerq_export.errors import EnvironmentMismatchError, OutOfMemoryError, UserError

if TYPE_CHECKING:
    from torch import Tensor

BINDINGS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_DTYPES = {
    "HALF": "float16",
    "BF16": "bfloat16",
    "FLOAT": "float32",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
}
"""Members of trt.DataType and the names that torch has for them."""


@dataclass(frozen=True)
class PlanTensor:
    """An input or output of a plan; -1 in `shape` is free, `dtype` is torch's name."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_input: bool


class Plan:
    """model.engine of an engine folder, ready to run on the current card.

    The plugin library in the folder is registered first where `record` names one. Tensors that are bound must live
    until the stream is through. Raises EnvironmentMismatchError when TensorRT refuses the plan, OutOfMemoryError when
    the card has too little memory for it.
    """

    def __init__(self, folder: Path, record: BackendRecord, backend: str):
        trt = importlib.import_module(BINDINGS[backend])
        self._folder = folder
        self._logger = quiet_logger(trt)
        if record.plugin is not None:
            register(trt, folder / record.plugin.file)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._deserialised(trt, folder / PLAN_NAME)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise OutOfMemoryError(
                f"no execution context for {folder / PLAN_NAME}", got=self.complaints, fix="a smaller --max-context"
            )
        self._held: dict[str, Tensor] = {}
        self.tensors = {tensor.name: tensor for tensor in self._listed(trt)}

    @property
    def complaints(self) -> str:
        """What TensorRT, and the plugin through it, said last."""
        return "; ".join(self._logger.errors[-3:]) or "no reason given"

    def use_profile(self, index: int, stream: int) -> None:
        """Select an optimisation profile; other input shapes than `hold`'s must be given anew then."""
        if self._context.active_optimization_profile != index:
            self._require(self._context.set_optimization_profile_async(index, stream), f"profile {index}")
            self.hold(self._held)

    def hold(self, tensors: Mapping[str, Tensor]) -> None:
        """Read these inputs from these tensors in every step from now on, whatever the profile."""
        self._held = dict(tensors)
        for name, tensor in tensors.items():
            self.bind_input(name, tensor)

    def bind_input(self, name: str, tensor: Tensor) -> None:
        """Read input `name` from `tensor`, contiguous and on the card."""
        self._require(self._context.set_input_shape(name, tuple(tensor.shape)), f"{name} of shape {[*tensor.shape]}")
        self.bind_output(name, tensor)

    def bind_output(self, name: str, tensor: Tensor) -> None:
        """Write output `name` into `tensor`."""
        self._require(self._context.set_tensor_address(name, tensor.data_ptr()), f"the address of {name}")

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of an output for the input shapes given."""
        missing = self._context.infer_shapes()
        self._require(not missing, f"inputs without a shape: {', '.join(missing)}")
        return tuple(self._context.get_tensor_shape(name))

    def run(self, stream: int) -> None:
        """Queue one step on a CUDA stream."""
        self._require(self._context.execute_async_v3(stream), "a step")

    def _deserialised(self, trt: Any, path: Path) -> Any:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise EnvironmentMismatchError(
                f"{trt.__name__} {trt.__version__} refuses {path}",
                expected="a plan built by this release for this card",
                got=self.complaints,
                fix=f"innerq-export doctor {path.parent}; then build the engine again on this machine",
            )
        return engine

    def _listed(self, trt: Any) -> list[PlanTensor]:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return [
            PlanTensor(
                name,
                _DTYPES[engine.get_tensor_dtype(name).name],
                tuple(engine.get_tensor_shape(name)),
                engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
            )
            for name in names
        ]

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise UserError(f"TensorRT refused {what}", got=self.complaints, fix=f"innerq-export doctor {self._folder}")
