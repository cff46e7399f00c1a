"""TensorRT-RTX: standard ops only; builds without a GPU; never has a plugin library loaded (that aborts it)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from innerq_export.artifacts import OnnxModel
from innerq_export.engine.base import BuildOptions, Built
from innerq_export.engine.builder import build_plan
from innerq_export.engine.profiles import Profile
from innerq_export.engine.versions import release, version_of
from innerq_export.errors import ConfigError
from innerq_export.progress import Step

PLAN_NAME = "model.engine"
DEFAULT_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")


class TensorRtRtxBackend:
    """NVIDIA's parser and builder from pip. One plan serves all the cards it names; kernels are made on first load."""

    name = "tensorrt-rtx"
    lowering = "native"
    install = "pip install 'innerq-export[rtx]'"

    def refusal(self) -> str | None:
        """Return why TensorRT-RTX cannot build here, or None."""
        version = version_of("tensorrt-rtx")
        if version is None:
            return "the package tensorrt-rtx is not installed"
        return None if release(version) >= (1, 7) else f"tensorrt-rtx {version} is older than 1.7"

    def build(
        self, model: OnnxModel, folder: Path, profiles: Sequence[Profile], options: BuildOptions, step: Step
    ) -> Built:
        """Write model.engine for the compute capabilities of `options`, or for all that RTX cards have."""
        import tensorrt_rtx

        capabilities = options.compute_capabilities or DEFAULT_CAPABILITIES
        codes = [_capability(tensorrt_rtx, text) for text in capabilities]

        def configure(config: Any) -> None:
            config.num_compute_capabilities = len(codes)
            for index, code in enumerate(codes):
                config.set_compute_capability(code, index)

        build_plan(tensorrt_rtx, model.path, folder / PLAN_NAME, profiles, configure, step)
        details = {"compute_capabilities": list(capabilities)}
        return Built((PLAN_NAME,), {"tensorrt-rtx": tensorrt_rtx.__version__}, details)


def _capability(trt: Any, text: str) -> Any:
    known = {name: code for name, code in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    code = known.get(f"SM{text.replace('.', '')}")
    if code is None:
        cards = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in known)
        raise ConfigError("unknown compute capability for TensorRT-RTX", expected=f"one of {cards}", got=text)
    return code
