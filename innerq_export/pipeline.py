"""The story: checkpoint -> graph -> rewrite -> ONNX -> engine -> parity. Each line of `build` is one stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from innerq_export.artifacts import Checkpoint, Engine, Graph, ModelShape, OnnxModel
from innerq_export.checkpoint import open_checkpoint
from innerq_export.engine import (
    BACKENDS,
    PLUGIN_ONNX_NAME,
    BuildOptions,
    BuildRequest,
    Profile,
    build_engine,
    default_profiles,
    load_engine,
    read_manifest,
    require_half,
    resolve,
    seal,
    staging,
)
from innerq_export.errors import CheckpointError, ParityError
from innerq_export.graph import export_graph, open_graph
from innerq_export.integrations.resolve import candidates
from innerq_export.onnx_io import MODEL_NAME, save_onnx, share_weights
from innerq_export.progress import Progress, Silent
from innerq_export.rewrite import prepare_for_rtx, rewrite

if TYPE_CHECKING:
    import onnx_ir as ir

    from innerq_export.parity.report import ParityReport


def build(request: BuildRequest, progress: Progress | None = None) -> Engine:
    """Build and prove an engine folder. Raises UserError; when parity fails the folder stays, not ready."""
    progress = progress or Silent()
    options = _options(request)
    backend = resolve(request.backend, options).name
    with staging(request.output, overwrite=request.overwrite) as folder, _scratch(folder) as scratch:
        source = open_source(request.model, progress)
        if backend == "tensorrt":
            require_half(source.dtype if isinstance(source, Graph) else request.dtype)
        profiles = _profiles(request, source.shape)
        graph = source if isinstance(source, Graph) else export_graph(source, request.dtype, progress)
        model, special = lower(graph, folder, scratch, request, backend, progress)
        checkpoint = None if isinstance(source, Graph) else source
        build_engine(
            model,
            folder,
            backend,
            profiles,
            progress,
            checkpoint=checkpoint,
            backend_model=special,
            options=options,
            source="" if checkpoint else str(Path(request.model).absolute()),
        )
    if request.parity != "off":
        prove(request.output, checkpoint or Path(request.model), request.parity, progress)
    return load_engine(request.output)


def open_source(model: str, progress: Progress) -> Checkpoint | Graph:
    """Return the graph of an .onnx file, else the checkpoint that `model` names."""
    return open_graph(Path(model)) if model.endswith(".onnx") else open_checkpoint(model, progress)


def _profiles(request: BuildRequest, shape: ModelShape) -> tuple[Profile, Profile]:
    return default_profiles(shape, request.cache, request.max_batch, request.context(shape))


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder inside `folder` for what only a builder reads; if we are killed, both go together."""
    with TemporaryDirectory(dir=folder, prefix=".scratch-") as scratch:
        yield Path(scratch)


def _options(request: BuildRequest) -> BuildOptions:
    """The plugin library is, where none is named, what `innerq-export plugin build` made."""
    if request.backend != "tensorrt" or request.options.plugin_library is not None:
        return request.options
    library = next((place.path for place in candidates("cuda") if place.path.is_file()), None)
    return dataclasses.replace(request.options, plugin_library=library)


def lower(
    graph: Graph, folder: Path, scratch: Path, request: BuildRequest, backend: str, progress: Progress
) -> tuple[OnnxModel, OnnxModel]:
    """Write `graph` as ONNX Runtime reads it, model.onnx in `folder`, and as `backend` reads it; return both.

    The second is model.plugin.onnx in `folder` for TensorRT, the first itself for ONNX Runtime, and otherwise lies in
    `scratch`. Weights are written once.
    """
    native = _rewritten(graph, request, "onnxruntime", progress)
    copy = request.copy_weights
    model = save_onnx(
        native, folder, graph=graph, cache=request.cache, lowering="native", copy_weights=copy, progress=progress
    )
    if backend == "onnxruntime":
        return model, model
    other = _rewritten(graph, request, backend, progress)
    share_weights(other, native, model)
    place, name = (folder, PLUGIN_ONNX_NAME) if backend == "tensorrt" else (scratch, MODEL_NAME)
    lowering = BACKENDS[backend].lowering
    return model, save_onnx(
        other, place, graph=graph, cache=request.cache, lowering=lowering, progress=progress, name=name
    )


def _rewritten(graph: Graph, request: BuildRequest, backend: str, progress: Progress) -> ir.Model:
    flavour = "attention" if backend == "tensorrt-rtx" and graph.dtype == "float16" else "matmul"
    with progress.stage(f"rewriting for {backend}"):
        model, _ = rewrite(graph, request.cache, BACKENDS[backend].lowering, request.logits, flavour)
        return prepare_for_rtx(model) if backend == "tensorrt-rtx" else model


def source_of(folder: Path, model: str | None = None, progress: Progress | None = None) -> Checkpoint | Path | None:
    """Return what an engine folder was made from: `model`, else what its manifest names; None for an .onnx now gone."""
    named = model or read_manifest(folder).source
    if not named.endswith(".onnx"):
        return open_checkpoint(named, progress or Silent())
    path = Path(named)
    if model and not path.is_file():
        raise CheckpointError(f"there is no file {path}", fix="name the .onnx that the engine was built from")
    return path if path.is_file() else None


@dataclass(frozen=True)
class Extras:
    """What parity may do besides: keep logits in `save`, hold them to `against`, cut a failing piece into `bisect`."""

    save: Path | None = None
    against: Path | None = None
    bisect: Path | None = None


def prove(
    folder: Path,
    source: Checkpoint | Path | None,
    extent: str,
    progress: Progress | None = None,
    extras: Extras | None = None,
) -> ParityReport:
    """Run parity on an engine folder made from `source` (a checkpoint, an .onnx, or unknown) and keep the report there.

    Writes parity.json and its figures. Sets `ready` if it passed; else raises ParityError.
    """
    from innerq_export.figures.parity import parity_figures
    from innerq_export.parity import REPORT_NAME, bisect, look_closely, recording

    extras = extras or Extras()
    expected = recording.load(extras.against) if extras.against else None
    checked = look_closely(folder, source, extent=extent, progress=progress)
    if extras.save:
        recording.save(checked, extras.save)
    report = recording.compared(checked, expected) if expected else checked.report
    (folder / REPORT_NAME).write_text(report.to_json(), encoding="utf-8")
    parity_figures(report, folder)
    seal(folder, ready=report.passed, parity=report.summary)
    if not report.passed:
        cut = f"\n{bisect.write_piece(folder, checked, source, extras.bisect)}" if extras.bisect else ""
        raise ParityError(f"parity failed: {folder} is not ready\n{report.text()}{cut}")
    return report
