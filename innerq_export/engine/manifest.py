"""manifest.json: what an engine folder is, what made it, and whether parity has passed. Strict and versioned."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from innerq_export.artifacts import LOWERINGS, ModelShape, WeightFile
from innerq_export.checkpoint.key_norm import FILE_NAME as KEY_NORM_NAME
from innerq_export.engine.strict import decode
from innerq_export.errors import EnvironmentMismatchError, UserError
from innerq_export.spec import CacheConfig, preset_name

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class FileEntry:
    """One file of the folder: size, SHA-256 as hex, time of last change in ns, and whether it is a hard link."""

    bytes: int
    sha256: str
    mtime_ns: int
    linked: bool = False


@dataclass(frozen=True)
class Manifest:
    """The whole of manifest.json.

    `backends` maps a backend's name to what it recorded: its `files`, the `versions` it was built with, `profiles`
    and, for NVIDIA, `compute_capabilities`. `weights` says which files are links and why others are not. `aliases`
    are (past, present) pairs that a backend updates in place; `rewrites`: how often each rule of the rewrite applied.
    `files` covers every file but manifest.json. `parity`
    is the summary of the check that set `ready`.
    """

    tool_version: str
    created: str
    source: str
    source_digest: str
    notes: tuple[str, ...]
    lowering: str
    dtype: str
    model: ModelShape
    cache: CacheConfig
    max_batch: int
    max_context: int
    versions: Mapping[str, str]
    backends: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, FileEntry]
    weights: tuple[WeightFile, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    rewrites: Mapping[str, int] = field(default_factory=dict)
    ready: bool = False
    parity: Mapping[str, Any] | None = None
    schema: int = field(default=SCHEMA_VERSION)

    def replace(self, **changes: Any) -> Manifest:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` gives back an equal manifest."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def to_json(self) -> str:
        """Return the text of manifest.json."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], where: Path) -> Manifest:
        """Return the manifest with these fields, read from folder `where`.

        Raises EnvironmentMismatchError for another schema, UserError for fields that are missing, unknown or broken.
        """
        _check_schema(fields, where)
        try:
            manifest = decode(cls, fields)
            _check_values(manifest)
        except ValueError as error:
            raise _broken(where, str(error)) from error
        return manifest


def rebuild_command(manifest: Manifest, folder: Path, *, fresh: bool = False) -> str:
    """Return the command line that builds this folder anew, with `fresh` without reusing any of its files."""
    words = ["innerq-export", "build", "--model", manifest.source, *_cache_words(manifest.cache)]
    if manifest.cache.key_norm == "folded":
        words += ["--key-norm-file", str(folder / KEY_NORM_NAME)]
    for backend, record in manifest.backends.items():
        if backend != "onnxruntime":
            words += ["--backend", backend, *(["--strip-weights"] if record.get("weights") else [])]
    words += ["--max-batch", str(manifest.max_batch), "--max-context", str(manifest.max_context)]
    return shlex.join([*words, "--output", str(folder), "--overwrite", *(["--fresh"] if fresh else [])])


def _cache_words(cache: CacheConfig) -> list[str]:
    name = preset_name(cache)
    if name != "custom":
        return ["--preset", name]
    default = CacheConfig().to_dict()
    changes = {field: value for field, value in cache.to_dict().items() if value != default[field]}
    return [word for field, value in changes.items() for word in ("--cache", f"{field}={value}")]


def _check_schema(fields: Mapping[str, Any], where: Path) -> None:
    if fields.get("schema") == SCHEMA_VERSION:
        return
    raise EnvironmentMismatchError(
        f"{where / MANIFEST_NAME}: another schema of manifest",
        expected=f"schema {SCHEMA_VERSION} (this innerq-export)",
        got=f"schema {fields.get('schema')!r}, written by innerq-export {fields.get('tool_version', 'unknown')}",
        fix=f"build it again: innerq-export build --model {shlex.quote(str(fields.get('source', 'MODEL')))} "
        f"--output {shlex.quote(str(where))} --overwrite",
    )


def _check_values(manifest: Manifest) -> None:
    if manifest.lowering not in LOWERINGS:
        raise ValueError(f"lowering is {manifest.lowering!r}, not one of {LOWERINGS}")
    for name, size in dataclasses.asdict(manifest.model).items():
        if not 1 <= size < 1 << 31:
            raise ValueError(f"model.{name} is {size}, not a size")
    for name, record in manifest.backends.items():
        decode(Mapping[str, str], record.get("versions"), f"backends.{name}.versions")


def _broken(where: Path, why: str) -> UserError:
    return UserError(
        f"{where / MANIFEST_NAME} cannot be read as a manifest",
        expected=f"the fields of schema {SCHEMA_VERSION}",
        got=why,
        fix=f"build the engine again: innerq-export build --model MODEL --output {shlex.quote(str(where))} --overwrite",
    )
