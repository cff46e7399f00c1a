"""ONNX model -> engine: ONNX Runtime's artefact always, the chosen backend's beside it, and the manifest over both."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from innerq_export import __version__
from innerq_export.artifacts import Checkpoint, Engine, OnnxModel, WeightFile
from innerq_export.checkpoint.key_norm import FILE_NAME as KEY_NORM_NAME
from innerq_export.checkpoint.key_norm import write_key_norm
from innerq_export.engine.backends import resolve
from innerq_export.engine.base import Backend, BuildOptions, Built
from innerq_export.engine.files import entries_of, entry_of
from innerq_export.engine.folder import write_manifest
from innerq_export.engine.keys import backend_key
from innerq_export.engine.ledger import Ledger
from innerq_export.engine.manifest import FileEntry, Manifest
from innerq_export.engine.onnxruntime import OnnxRuntimeBackend
from innerq_export.engine.profiles import Profile, largest
from innerq_export.engine.strict import decode
from innerq_export.engine.trtllm_layout import write_layout
from innerq_export.engine.versions import installed_versions
from innerq_export.errors import ConfigError
from innerq_export.progress import Progress, Silent

MODEL_FILES = ("config.json", "generation_config.json")


def build_engine(
    model: OnnxModel,
    folder: Path,
    backend: str,
    profiles: Sequence[Profile],
    progress: Progress | None = None,
    *,
    checkpoint: Checkpoint | None = None,
    backend_model: OnnxModel | Callable[[], OnnxModel] | None = None,
    options: BuildOptions | None = None,
    source: str = "",
    rewrites: Mapping[str, int] | None = None,
    ledger: Ledger | None = None,
    key: str = "",
) -> Engine:
    """Complete the folder in which `model` (native lowering) lies, and return it as an engine that is not ready yet.

    `backend`: a name of `BACKENDS` or 'auto'; `backend_model`: the same graph as that backend wants it (the plugin
    lowering in the folder too for 'tensorrt', inlined functions for 'tensorrt-rtx', anywhere), or for the latter what
    makes it if it is needed; `model` by default; `checkpoint`: gives tokenizer files, config.json and the name for the
    manifest; `source`: that name where there is no checkpoint, the path of the user's .onnx; `rewrites`: what the
    rewrite counted; `ledger`: reuses what an earlier build made of the model of this `key`.
    Use inside `folder.staging`, so that nothing half-built stays. Raises UserError and KeyboardInterrupt.
    """
    options, report = options or BuildOptions(), progress or Silent()
    chosen = resolve(backend, options)
    _check_place(model, folder)
    special = _fitting(chosen, model if backend_model is None or callable(backend_model) else backend_model)
    ledger = ledger or Ledger()

    def built(backend: Backend, wanted: OnnxModel | Callable[[], OnnxModel]) -> Built:
        def work() -> dict[str, Any]:
            found = _fitting(backend, wanted() if callable(wanted) else wanted)
            with report.stage(f"building for {backend.name}") as step:
                return asdict(backend.build(found, folder, profiles, options, step))

        return decode(Built, ledger.run(backend.name, backend_key(backend.name, key, profiles, options), work))

    made = {"onnxruntime": built(OnnxRuntimeBackend(), model)}
    if chosen.name != "onnxruntime":
        made[chosen.name] = built(chosen, backend_model or model)
    ledger.finish()
    if checkpoint is not None:
        copy_model_files(checkpoint, folder)
    if chosen.name == "tensorrt":
        write_layout(folder, special, profiles)
    with report.stage("listing the files" if ledger.reused else "hashing the files") as step:
        files = entries_of(folder, {**ledger.known_files, **_known(folder, made.values())}, step)
        manifest = _manifest(model, profiles, made, checkpoint, source, files)
        manifest = manifest.replace(weights=_weights(folder, model, special), rewrites=rewrites or {})
        write_manifest(folder, manifest)
    return Engine(folder, manifest.to_dict())


def copy_model_files(checkpoint: Checkpoint, folder: Path) -> None:
    """Put config, tokenizer files and a folded key norm into the folder: what `run` and `parity` need besides."""
    configs = [checkpoint.folder / name for name in MODEL_FILES]
    for path in [*configs, *checkpoint.tokenizer_files]:
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    if checkpoint.key_norm is not None and not (folder / KEY_NORM_NAME).exists():
        write_key_norm(checkpoint.key_norm, folder / KEY_NORM_NAME)


def _weights(folder: Path, *models: OnnxModel) -> tuple[WeightFile, ...]:
    """Return the weight files of the models in the folder, each once, as the first model has it."""
    files: dict[str, WeightFile] = {}
    for model in models:
        if model.path.parent.resolve() == folder.resolve():
            files = {file.name: file for file in model.weights} | files
    return tuple(files.values())


def _known(folder: Path, made: Iterable[Built]) -> dict[str, FileEntry]:
    """Return entries of the files that were hashed while they were written."""
    digests = {name: digest for built in made for name, digest in built.digests.items()}
    return {name: entry_of(folder / name, digest) for name, digest in digests.items()}


def _fitting(backend: Backend, model: OnnxModel) -> OnnxModel:
    if model.lowering != backend.lowering:
        raise ConfigError(
            f"backend '{backend.name}' needs the {backend.lowering} lowering",
            expected=backend.lowering,
            got=model.lowering,
            fix=f"rewrite the graph with lowering='{backend.lowering}' and give it as backend_model",
        )
    return model


def _check_place(model: OnnxModel, folder: Path) -> None:
    if model.lowering != "native":
        raise ConfigError(
            "ONNX Runtime needs the native lowering",
            expected="native",
            got=model.lowering,
            fix="give the plugin lowering as backend_model",
        )
    if model.path.parent.resolve() != folder.resolve():
        raise ConfigError(
            "the model lies outside the engine folder",
            expected=folder,
            got=model.path.parent,
            fix="save it into the engine folder",
        )


def _manifest(
    model: OnnxModel,
    profiles: Sequence[Profile],
    made: dict[str, Built],
    checkpoint: Checkpoint | None,
    source: str,
    files: Mapping[str, FileEntry],
) -> Manifest:
    max_batch, max_context, _ = largest(profiles)
    return Manifest(
        tool_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        source=checkpoint.source if checkpoint else source or model.path.name,
        source_digest=checkpoint.digest if checkpoint else model.digest,
        notes=checkpoint.notes if checkpoint else (),
        lowering=model.lowering,
        dtype=model.dtype,
        model=model.shape,
        cache=model.cache,
        max_batch=max_batch,
        max_context=max_context,
        versions=installed_versions()
        | {name: text for built in made.values() for name, text in built.versions.items()},
        backends={name: _record(built, profiles) for name, built in made.items()},
        files=files,
        aliases=tuple(pair for built in made.values() for pair in built.aliases),
    )


def _record(built: Built, profiles: Sequence[Profile]) -> dict[str, Any]:
    return {
        "files": list(built.files),
        "versions": built.versions,
        "profiles": [asdict(profile) for profile in profiles],
        **built.details,
    }
