"""TensorRT 10 and 11: the same builder as TensorRT-RTX, with the InnerQ plugin and aliased cache tensors."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from innerq_export.artifacts import OnnxModel
from innerq_export.engine.backend_record import PluginRecord
from innerq_export.engine.base import BuildOptions, Built
from innerq_export.engine.builder_process import run_builder
from innerq_export.engine.card import first_card
from innerq_export.engine.files import sha256_of
from innerq_export.engine.plan_request import PlanRequest
from innerq_export.engine.plugin_library import stamp_of
from innerq_export.engine.profiles import Profile
from innerq_export.engine.tensorrt_rtx import PLAN_NAME
from innerq_export.engine.versions import release, version_of
from innerq_export.errors import ConfigError, EnvironmentMismatchError
from innerq_export.progress import Step

PLUGIN_ONNX_NAME = "model.plugin.onnx"


class TensorRtBackend:
    """Full TensorRT with libinnerq_trt.so.

    The library is copied into the folder, where the ONNX file of the plan lies too: all travel together.
    """

    name = "tensorrt"
    lowering = "plugin"
    one_profile = False
    needs = "tensorrt 10.16 to 11.x, on a machine with an NVIDIA GPU"
    install = "pip install 'innerq-export[tensorrt]' (the wheels come from NVIDIA's index)"

    def refusal(self) -> str | None:
        """Return why TensorRT cannot build here, or None."""
        version = version_of("tensorrt")
        if version is None:
            return "the package tensorrt is not installed"
        if not (10, 16) <= release(version) < (12, 0):
            return f"tensorrt {version} is not supported: 10.16 to 11.x is"
        return (
            None if first_card() else "there is no NVIDIA card with a driver, and TensorRT builds for the one at hand"
        )

    def check(self, options: BuildOptions) -> None:
        """Raise EnvironmentMismatchError unless the plugin library is there and of this contract.

        ConfigError for `strip_weights`: the plan of this backend holds its weights.
        """
        if options.strip_weights:
            raise ConfigError(
                f"backend '{self.name}' builds plans with their weights",
                expected="--backend tensorrt-rtx for --strip-weights",
                got=f"--backend {self.name} --strip-weights",
                fix="leave --strip-weights out",
            )
        stamp_of(_required(options.plugin_library))

    def build(
        self, model: OnnxModel, folder: Path, profiles: Sequence[Profile], options: BuildOptions, step: Step
    ) -> Built:
        """Write model.engine for the GPU at hand, and the plugin library beside it. `model` must lie in `folder`."""
        require_half(model.dtype)
        _check_place(model, folder)
        library = _required(options.plugin_library)
        request = PlanRequest(
            "tensorrt",
            model.path,
            folder / PLAN_NAME,
            tuple(profiles),
            library=library,
            timing_cache=options.timing_cache,
            weights=model.weight_paths,
        )
        digest = run_builder(request, step)
        shutil.copy2(library, folder / library.name)
        versions = {"tensorrt": version_of("tensorrt") or "unknown"}
        files = (PLAN_NAME, model.path.name, library.name)
        return Built(files, versions, _details(model, library), cache_aliases(model), {PLAN_NAME: digest})


def _details(model: OnnxModel, library: Path) -> dict[str, Any]:
    stamp, card = stamp_of(library), first_card()
    plugin = PluginRecord(
        library.name, stamp.spec_version, stamp.git_hash, stamp.architectures, sha256=sha256_of(library)
    )
    return {"plugin": asdict(plugin), "onnx": model.path.name, "card": asdict(card) if card else None}


def _check_place(model: OnnxModel, folder: Path) -> None:
    if model.path.parent.resolve() != folder.resolve() or model.path.name == "model.onnx":
        raise ConfigError(
            "the plugin lowering belongs into the engine folder, beside model.onnx",
            expected=folder / PLUGIN_ONNX_NAME,
            got=model.path,
            fix=f"save_onnx(..., folder, lowering='plugin', name='{PLUGIN_ONNX_NAME}')",
        )


def require_half(dtype: str) -> None:
    """Raise ConfigError for activations that the plugin does not compute in."""
    if dtype == "float32":
        raise ConfigError(
            "the InnerQ plugin for TensorRT does not compute in float32",
            expected="float16",
            got=dtype,
            fix="--dtype float16, or --backend onnxruntime or tensorrt-rtx",
        )


def cache_aliases(model: OnnxModel) -> tuple[tuple[str, str], ...]:
    """Return (past, present) of every cache tensor: in the plugin lowering the two are one buffer."""
    import onnx

    names = [value.name for value in onnx.load(model.path, load_external_data=False).graph.output]
    return tuple((name.replace("present_", "past_", 1), name) for name in names if name.startswith("present_"))


def _required(library: Path | None) -> Path:
    if library is not None and library.is_file():
        return library
    raise EnvironmentMismatchError(
        "backend 'tensorrt' needs the InnerQ plugin library",
        expected="libinnerq_trt.so",
        got=f"no file {library}" if library else "none given",
        fix="innerq-export plugin build, then --plugin-library FILE with what it made",
    )
