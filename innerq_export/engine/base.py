"""What a backend is: something that turns an ONNX model in an engine folder into what a runtime loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from innerq_export.artifacts import OnnxModel
from innerq_export.engine.profiles import Profile
from innerq_export.progress import Step


@dataclass(frozen=True)
class BuildOptions:
    """What a user may choose about a TensorRT build.

    `compute_capabilities`: cards such as '8.9' that a TensorRT-RTX engine is for; empty means the backend's default.
    `plugin_library`: libinnerq_trt.so, which the `tensorrt` backend needs.
    `timing_cache`: a file that the `tensorrt` backend reads kernel timings from and writes them to; None keeps none.
    `split_profiles`: a TensorRT-RTX engine is compiled for prompts and once more for single tokens; `tensorrt` always.
    `strip_weights`: a TensorRT-RTX engine holds no matrices; a session reads them from what model.onnx refers to.
    """

    compute_capabilities: tuple[str, ...] = ()
    plugin_library: Path | None = None
    timing_cache: Path | None = None
    split_profiles: bool = False
    strip_weights: bool = False


@dataclass(frozen=True)
class Built:
    """What a backend made: its files, the libraries it was built with, and what else its runtime must know.

    `digests`: the SHA-256 as hex of those files that were hashed while they were written.
    """

    files: tuple[str, ...]
    versions: Mapping[str, str]
    details: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[tuple[str, str], ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)


class Backend(Protocol):
    """One way to run an engine folder.

    `lowering`: the form of ONNX that it reads; `one_profile`: a profile for every step does, unless the user wants
    prompts and single tokens apart; `needs`, `install`: for messages.
    """

    name: str
    lowering: str
    one_profile: bool
    needs: str
    install: str

    def refusal(self) -> str | None:
        """Return why this machine cannot build for the backend, or None when it can."""

    def check(self, options: BuildOptions) -> None:
        """Raise UserError for options that cannot hold, before anything is built."""

    def build(
        self, model: OnnxModel, folder: Path, profiles: Sequence[Profile], options: BuildOptions, step: Step
    ) -> Built:
        """Write the backend's files into `folder`. Raises UserError; KeyboardInterrupt leaves no file behind."""
