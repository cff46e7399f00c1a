"""The story: checkpoint -> graph -> rewrite -> ONNX -> engine -> parity. Each line of `build` is one stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from innerq_export.artifacts import Checkpoint, Engine, Graph
from innerq_export.checkpoint import open_checkpoint
from innerq_export.checkpoint.key_norm import as_built
from innerq_export.checkpoint.support import check_provable
from innerq_export.engine import (
    BACKENDS,
    BuildOptions,
    BuildRequest,
    build_engine,
    default_profiles,
    load_engine,
    read_manifest,
    require_half,
    resolve,
    staging,
)
from innerq_export.engine.folder import exclusive
from innerq_export.engine.keys import model_key, request_digest
from innerq_export.engine.ledger import Ledger
from innerq_export.engine.stage_record import unfinished
from innerq_export.errors import CheckpointError
from innerq_export.folding import with_key_norm
from innerq_export.graph import open_graph
from innerq_export.integrations.resolve import candidates
from innerq_export.networks import Networks
from innerq_export.progress import Progress, Silent
from innerq_export.proof import Extras, prove, take_proof

__all__ = ["BuildRequest", "Extras", "build", "open_source", "prove", "source_of"]


def build(request: BuildRequest, progress: Progress | None = None) -> Engine:
    """Build and prove an engine folder. Raises UserError; when parity fails the folder stays, not ready.

    What an earlier build of this folder, or a killed one, made of the same things is reused (see engine.keys), unless
    the request is `fresh`. One that was killed before parity had its verdict is completed without `overwrite`.
    """
    progress = progress or Silent()
    options = _options(request)
    backend, asked = resolve(request.backend, options).name, request_digest(request)
    with exclusive(request.output):
        overwrite = request.overwrite or unfinished(request.output, asked)
        with staging(request.output, overwrite=overwrite, resume=not request.fresh) as folder:
            ledger = Ledger(folder, None if request.fresh else request.output, asked)
            source = with_key_norm(open_source(request.model, progress), request, progress, ledger)
            _build(request, source, folder, backend, options, ledger, progress)
            ledger.close(finished=request.parity == "off" or take_proof(folder, request.parity, ledger))
        if unfinished(request.output, asked):
            prove(request.output, _provable(source, request), request.parity, progress)
    return load_engine(request.output)


def _build(
    request: BuildRequest,
    source: Checkpoint | Graph,
    folder: Path,
    backend: str,
    options: BuildOptions,
    ledger: Ledger,
    progress: Progress,
) -> None:
    """Fill `folder`: the networks, what the backends make of them, and the manifest."""
    if isinstance(source, Checkpoint):
        check_provable(source.config, request.dtype, request.parity)
    if backend == "tensorrt":
        require_half(source.dtype if isinstance(source, Graph) else request.dtype)
    split = options.split_profiles or not BACKENDS[backend].one_profile
    context = request.context(source.shape)
    profiles = default_profiles(source.shape, request.cache, request.max_batch, context, split=split)
    key = model_key(request, source)
    networks = Networks(source, request, ledger, key, progress)
    model, rewrites = networks.native(folder)
    with _scratch(folder) as scratch:
        special: dict[str, Any] = {"tensorrt-rtx": lambda: networks.for_rtx(scratch, model)}
        if backend == "tensorrt":
            special[backend] = networks.plugin(folder, model)
        build_engine(
            model,
            folder,
            backend,
            profiles,
            progress,
            checkpoint=None if isinstance(source, Graph) else source,
            backend_model=special.get(backend),
            options=options,
            source=str(Path(request.model).absolute()),
            rewrites=rewrites,
            ledger=ledger,
            key=key,
        )
        networks.close()


def open_source(model: str, progress: Progress) -> Checkpoint | Graph:
    """Return the graph of an .onnx file, else the checkpoint that `model` names."""
    return open_graph(Path(model)) if model.endswith(".onnx") else open_checkpoint(model, progress)


def _provable(source: Checkpoint | Graph, request: BuildRequest) -> Checkpoint | Path:
    return Path(request.model) if isinstance(source, Graph) else source


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


def source_of(folder: Path, model: str | None = None, progress: Progress | None = None) -> Checkpoint | Path | None:
    """Return what an engine folder was made from: `model`, else what its manifest names; None for an .onnx now gone."""
    manifest = read_manifest(folder)
    named = model or manifest.source
    if not named.endswith(".onnx"):
        return as_built(open_checkpoint(named, progress or Silent()), manifest.cache, folder)
    path = Path(named)
    if model and not path.is_file():
        raise CheckpointError(f"there is no file {path}", fix="name the .onnx that the engine was built from")
    return path if path.is_file() else None
