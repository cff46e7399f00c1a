"""What the manifest records of one backend, by type: what a session needs to know before it loads a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from innerq_export.engine.card import Card
from innerq_export.engine.manifest import MANIFEST_NAME, Manifest, rebuild_command
from innerq_export.engine.profiles import Profile
from innerq_export.engine.strict import decode
from innerq_export.errors import UserError


@dataclass(frozen=True)
class PluginRecord:
    """The plugin library beside the plan: its file, the contract it implements, and its build stamp."""

    file: str
    spec_version: int
    git: str
    architectures: str
    sha256: str


@dataclass(frozen=True)
class BackendRecord:
    """An entry of `Manifest.backends`.

    `profiles` in the order of the plan's own; `compute_capabilities`: cards that a TensorRT-RTX plan is for; `card`:
    the one that a TensorRT plan was built on; `plugin`, `onnx`: the library it needs and the model it was built from;
    `weights`: the model whose initializers are inputs of the plan, empty where the plan holds its weights.
    """

    files: tuple[str, ...]
    versions: Mapping[str, str]
    profiles: tuple[Profile, ...]
    compute_capabilities: tuple[str, ...] = ()
    plugin: PluginRecord | None = None
    card: Card | None = None
    onnx: str = ""
    weights: str = ""

    @property
    def cards(self) -> tuple[str, ...]:
        """Compute capabilities that the plan is for; empty where any machine will do."""
        return (self.card.compute_capability,) if self.card else self.compute_capabilities


def record_of(manifest: Manifest, backend: str, folder: Path) -> BackendRecord:
    """Return the record of `backend`. UserError when the folder was not built for it or the record is broken."""
    fields = manifest.backends.get(backend)
    fix = rebuild_command(manifest, folder)
    if fields is None:
        raise UserError(
            f"{folder} was not built for backend '{backend}'",
            expected=", ".join(manifest.backends),
            got=backend,
            fix=f"{fix} --backend {backend}",
        )
    try:
        return decode(BackendRecord, dict(fields), f"backends.{backend}")
    except ValueError as error:
        raise UserError(f"{folder / MANIFEST_NAME} cannot be read as a manifest", got=error, fix=fix) from error
