"""The story: checkpoint -> graph -> rewrite -> ONNX -> engine -> parity. Each line of `build` is one stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from innerq_export.artifacts import Checkpoint, Engine, Graph, OnnxModel
from innerq_export.engine import BuildOptions, build_engine, default_profiles, load_engine, resolve, seal, staging
from innerq_export.errors import ParityError
from innerq_export.progress import Progress, Silent
from innerq_export.spec import CacheConfig

if TYPE_CHECKING:
    from innerq_export.parity.report import ParityReport


@dataclass(frozen=True)
class BuildRequest:
    """What a user asks for.

    `model`: `llama`, a Hugging Face folder, a hub id or an .onnx file; `max_context`: tokens, None is what the model
    was trained for, at most 8192; `parity`: fast, full or off (then the engine is not ready).
    """

    model: str
    output: Path
    cache: CacheConfig = field(default_factory=CacheConfig)
    backend: str = "auto"
    dtype: str = "float16"
    max_batch: int = 8
    max_context: int | None = None
    logits: str = "last"
    parity: str = "fast"
    copy_weights: bool = False
    overwrite: bool = False
    options: BuildOptions = field(default_factory=BuildOptions)


def build(request: BuildRequest, progress: Progress | None = None) -> Engine:
    """Build and prove an engine folder. Raises UserError; when parity fails the folder stays, not ready."""
    progress = progress or Silent()
    backend = resolve(request.backend)
    checkpoint, graph = open_model(request.model, request.dtype, progress)
    context = request.max_context or min(8192, graph.shape.max_positions)
    profiles = default_profiles(graph.shape, request.cache, request.max_batch, context)
    with (
        staging(request.output, overwrite=request.overwrite) as folder,
        TemporaryDirectory(dir=folder.parent) as scratch,
    ):
        model = lower(graph, folder, request, "onnxruntime", progress)
        special = (
            model if backend.name == "onnxruntime" else lower(graph, Path(scratch), request, backend.name, progress)
        )
        build_engine(
            model,
            folder,
            backend.name,
            profiles,
            progress,
            checkpoint=checkpoint,
            backend_model=special,
            options=request.options,
        )
    if request.parity != "off":
        prove(request.output, checkpoint, request.parity, progress)
    return load_engine(request.output)


def open_model(source: str, dtype: str, progress: Progress) -> tuple[Checkpoint | None, Graph]:
    """Return the checkpoint (None for an .onnx file) and its graph."""
    from innerq_export.checkpoint import open_checkpoint
    from innerq_export.graph import export_graph, open_graph

    if source.endswith(".onnx"):
        return None, open_graph(Path(source))
    checkpoint = open_checkpoint(source, progress)
    return checkpoint, export_graph(checkpoint, dtype, progress)


def lower(graph: Graph, folder: Path, request: BuildRequest, backend: str, progress: Progress) -> OnnxModel:
    """Rewrite `graph` in the form that `backend` reads and write it into `folder`."""
    from innerq_export.onnx_io import save_onnx
    from innerq_export.rewrite import prepare_for_rtx, rewrite

    lowering = "plugin" if backend == "tensorrt" else "native"
    flavour = "attention" if backend == "tensorrt-rtx" else "matmul"
    with progress.stage(f"rewriting for {backend}"):
        model, _ = rewrite(graph, request.cache, lowering, request.logits, flavour)
        if backend == "tensorrt-rtx":
            prepare_for_rtx(model)
    copy = request.copy_weights and backend == "onnxruntime"
    return save_onnx(
        model, folder, graph=graph, cache=request.cache, lowering=lowering, copy_weights=copy, progress=progress
    )


def prove(folder: Path, checkpoint: Checkpoint | None, extent: str, progress: Progress | None = None) -> ParityReport:
    """Run parity on an engine folder, keep the report there, set `ready` if it passed; else raise ParityError."""
    from innerq_export.parity import FAST, FULL, REPORT_NAME, check_engine

    report = check_engine(folder, checkpoint, cases=FULL if extent == "full" else FAST, progress=progress)
    (folder / REPORT_NAME).write_text(report.to_json(), encoding="utf-8")
    seal(folder, ready=report.passed, parity=report.summary)
    if not report.passed:
        raise ParityError(f"parity failed: {folder} is not ready\n{report.text()}")
    return report
