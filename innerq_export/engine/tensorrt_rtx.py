"""TensorRT-RTX: standard ops only; builds without a GPU; never has a plugin library loaded (that aborts it)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from innerq_export.artifacts import OnnxModel
from innerq_export.engine.base import BuildOptions, Built
from innerq_export.engine.builder_process import run_builder
from innerq_export.engine.capabilities import capability_codes
from innerq_export.engine.plan_request import PlanRequest
from innerq_export.engine.profiles import Profile
from innerq_export.engine.versions import release, version_of
from innerq_export.progress import Step

PLAN_NAME = "model.engine"
_FIRST = "model.onnx"
DEFAULT_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")


class TensorRtRtxBackend:
    """NVIDIA's parser and builder from pip. One plan serves all the cards it names; kernels are made on first load."""

    name = "tensorrt-rtx"
    lowering = "native"
    one_profile = True
    needs = "tensorrt-rtx 1.7 or later"
    install = "pip install 'innerq-export[rtx]'"

    def refusal(self) -> str | None:
        """Return why TensorRT-RTX cannot build here, or None."""
        version = version_of("tensorrt-rtx")
        if version is None:
            return "the package tensorrt-rtx is not installed"
        return None if release(version) >= (1, 7) else f"tensorrt-rtx {version} is older than 1.7"

    def check(self, options: BuildOptions) -> None:
        """Raise ConfigError for a card that TensorRT-RTX does not know."""
        if options.compute_capabilities:
            import tensorrt_rtx

            capability_codes(tensorrt_rtx, options.compute_capabilities)

    def build(
        self, model: OnnxModel, folder: Path, profiles: Sequence[Profile], options: BuildOptions, step: Step
    ) -> Built:
        """Write model.engine for the compute capabilities of `options`, or for all that RTX cards have.

        With `strip_weights` model.onnx must lie in `folder` already.
        """
        capabilities = options.compute_capabilities or DEFAULT_CAPABILITIES
        stripped = _stripped(model.path, folder / _FIRST) if options.strip_weights else None
        request = PlanRequest(
            "tensorrt_rtx",
            stripped or model.path,
            folder / PLAN_NAME,
            tuple(profiles),
            compute_capabilities=capabilities,
            weights=() if stripped else model.weight_paths,
        )
        try:
            digest = run_builder(request, step)
        finally:
            if stripped:
                stripped.unlink()
        versions = {"tensorrt-rtx": version_of("tensorrt-rtx") or "unknown"}
        details = {"compute_capabilities": list(capabilities), "weights": _FIRST if stripped else ""}
        return Built((PLAN_NAME,), versions, details, digests={PLAN_NAME: digest})


def _stripped(model: Path, first: Path) -> Path | None:
    from innerq_export.engine.stripped import strip_weights

    return strip_weights(model, first)
