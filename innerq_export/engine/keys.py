"""Keys of stages: digests of all that a stage's result depends on. What is in doubt goes in, and is built again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from innerq_export.artifacts import Checkpoint, Graph, digest_of
from innerq_export.engine.base import BuildOptions
from innerq_export.engine.card import first_card
from innerq_export.engine.files import sha256_of
from innerq_export.engine.profiles import Profile
from innerq_export.engine.request import BuildRequest
from innerq_export.engine.versions import TRACKED, version_of
from innerq_export.identity import code_digest, file_marks, versions_of

_OF_THE_FOLDER = {"output", "overwrite", "fresh"}
_NOT_OF_THE_MODEL = _OF_THE_FOLDER | {"model", "backend", "max_batch", "max_context", "options", "parity"}


def request_digest(request: BuildRequest) -> str:
    """Return a digest of what `request` asks for, wherever it is to lie and whatever may be replaced or reused."""
    return digest_of(_fields(request, _OF_THE_FOLDER))


def calibration_key(source: Checkpoint, text: Path, sink: int) -> str:
    """Return the key of what calibrating `source` on the file `text` gives."""
    return digest_of(
        code_digest(), _libraries(), _source(source), file_marks(source.tokenizer_files), _plain(text), sink
    )


def model_key(request: BuildRequest, source: Checkpoint | Graph) -> str:
    """Return the key of model.onnx: code, libraries, the bytes of the source, and every choice but those of backends.

    Another onnxruntime changes no model: it is left out.
    """
    choices = _fields(request, _NOT_OF_THE_MODEL)
    return digest_of(code_digest(), _libraries(), _source(source), choices)


def backend_key(name: str, model: str, profiles: Sequence[Profile], options: BuildOptions) -> str:
    """Return the key of what backend `name` builds from the model of key `model`."""
    if name == "onnxruntime":
        return digest_of(name, model, version_of(name))
    chosen = asdict(options) | {"timing_cache": None, "plugin_library": None}
    library = sha256_of(options.plugin_library) if options.plugin_library else None
    card = asdict(found) if name == "tensorrt" and (found := first_card()) else None
    return digest_of(name, model, version_of(name), [asdict(profile) for profile in profiles], chosen, library, card)


def _libraries() -> dict[str, str | None]:
    return versions_of(*(name for name in TRACKED if name not in ("innerq-export", "onnxruntime")))


def _source(source: Checkpoint | Graph) -> list[Any]:
    if isinstance(source, Graph):
        return [source.digest, source.dtype]
    return [source.digest, file_marks(ref.file for ref in source.tensors.values())]


def _fields(request: BuildRequest, without: set[str]) -> dict[str, Any]:
    return {field.name: _plain(getattr(request, field.name)) for field in fields(request) if field.name not in without}


def _plain(value: Any) -> Any:
    """Return dataclasses as dicts, and files as a digest of what is in them."""
    if isinstance(value, Path):
        return sha256_of(value) if value.is_file() else str(value)
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value
