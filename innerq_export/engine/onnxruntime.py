"""ONNX Runtime: the model file is the engine; building means proving that a session loads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from innerq_export.artifacts import OnnxModel
from innerq_export.engine.base import BuildOptions, Built
from innerq_export.engine.profiles import Profile
from innerq_export.engine.versions import version_of
from innerq_export.errors import RewriteError
from innerq_export.progress import Step


class OnnxRuntimeBackend:
    """Always built: it needs neither a GPU nor NVIDIA's packages, and parity runs on it."""

    name = "onnxruntime"
    lowering = "native"
    one_profile = False
    needs = "onnxruntime 1.31 or later"
    install = "pip install onnxruntime"

    def refusal(self) -> str | None:
        """Return why ONNX Runtime cannot be used here, or None."""
        return None if version_of("onnxruntime") else "the package onnxruntime is not installed"

    def check(self, options: BuildOptions) -> None:
        """Options of TensorRT do not concern it."""

    def build(
        self, model: OnnxModel, folder: Path, profiles: Sequence[Profile], options: BuildOptions, step: Step
    ) -> Built:
        """Load the model once without optimising it; RewriteError carries ONNX Runtime's reason when it refuses."""
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.log_severity_level = 3
        try:
            onnxruntime.InferenceSession(model.path, settings, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise RewriteError(
                f"ONNX Runtime {onnxruntime.__version__} cannot load {model.path.name}",
                expected="a model in standard ops and the functions of domain innerq",
                got=error,
                fix="report this with the model's config.json; `pip install -U onnxruntime` if it is older than 1.31",
            ) from error
        step.advance(1.0)
        return Built((model.path.name,), {"onnxruntime": onnxruntime.__version__})
