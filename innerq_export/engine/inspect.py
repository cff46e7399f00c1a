"""What is in an engine folder, as one dataclass that a command line can print or dump."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from innerq_export.engine.files import check_files
from innerq_export.engine.folder import read_manifest
from innerq_export.engine.manifest import Manifest, rebuild_command
from innerq_export.engine.stage_record import Record, read_record
from innerq_export.errors import UserError
from innerq_export.spec import fp16_kv_bytes_per_token, kv_bytes_per_token, preset_name, window_bytes


@dataclass(frozen=True)
class KvCost:
    """Memory of keys and values over all layers and KV heads.

    `bytes_per_token`: one more quantised token; `fp16_bytes_per_token`: the same in a plain fp16 cache;
    `window_bytes`: the full-precision window of one sequence, whatever its length.
    """

    bytes_per_token: float
    fp16_bytes_per_token: int
    window_bytes: int

    @property
    def ratio(self) -> float:
        """How many times smaller than fp16 a quantised token is."""
        return self.fp16_bytes_per_token / self.bytes_per_token


@dataclass(frozen=True)
class Inspection:
    """The answer of `inspect_engine`. `damage`: the first thing wrong with the files, or None; `record`: how the
    folder was built, None where that is not known.
    """

    folder: Path
    manifest: Manifest
    preset: str
    cost: KvCost
    total_bytes: int
    linked_bytes: int
    damage: str | None
    record: Record | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "folder": str(self.folder),
            "ready": self.manifest.ready,
            "damage": self.damage,
            "preset": self.preset,
            "kv": asdict(self.cost) | {"ratio": self.cost.ratio},
            "total_bytes": self.total_bytes,
            "linked_bytes": self.linked_bytes,
            "stages": {
                name: {"seconds": stage.seconds, "reused": stage.reused}
                for name, stage in (self.record.stages.items() if self.record else ())
            },
            "seconds_saved": round(self.record.saved_seconds, 3) if self.record else 0.0,
            "manifest": self.manifest.to_dict(),
        }


def inspect_engine(folder: Path, *, full: bool = False) -> Inspection:
    """Return what is in `folder`; damaged files are reported, not raised. `full` hashes every file.

    Raises UserError when there is no manifest or it cannot be read.
    """
    manifest = read_manifest(folder)
    return Inspection(
        folder=folder,
        manifest=manifest,
        preset=preset_name(manifest.cache),
        cost=kv_cost(manifest),
        total_bytes=sum(entry.bytes for entry in manifest.files.values()),
        linked_bytes=sum(entry.bytes for entry in manifest.files.values() if entry.linked),
        damage=_damage(folder, manifest, full),
        record=read_record(folder),
    )


def kv_cost(manifest: Manifest) -> KvCost:
    """Return what the cache of this engine costs."""
    shape, cache = manifest.model, manifest.cache
    return KvCost(
        bytes_per_token=kv_bytes_per_token(cache, shape.layers, shape.kv_heads, shape.head_dim),
        fp16_bytes_per_token=fp16_kv_bytes_per_token(shape.layers, shape.kv_heads, shape.head_dim),
        window_bytes=window_bytes(cache, shape.head_dim) * shape.layers * shape.kv_heads,
    )


def _damage(folder: Path, manifest: Manifest, full: bool) -> str | None:
    try:
        check_files(folder, manifest.files, rebuild_command(manifest, folder, fresh=True), full=full)
    except UserError as error:
        return str(error)
    return None
