"""Traced graphs kept in the cache folder: tracing depends on config.json, dtype and libraries, but on no weight.

A file is one line of JSON (SHA-256 of the rest, seconds that tracing took) and the ONNX graph with weights as inputs:
27 KB for the demo model. The most recently used 64 are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from innerq_export.artifacts import digest_of
from innerq_export.checkpoint.demo import cache_root
from innerq_export.identity import code_digest, versions_of

if TYPE_CHECKING:
    import onnx_ir as ir

MOST_GRAPHS = 64
_LIBRARIES = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "numpy")
_ENDING = ".graph"


class TraceStore:
    """The folder `graphs` of the cache folder. `saved`: seconds of tracing that were spared. Unless `wanted`, a store
    that holds nothing and keeps nothing; so does one that cannot be read or written.
    """

    def __init__(self, *, wanted: bool = True) -> None:
        self._wanted = wanted
        self.saved = 0.0

    def has(self, config: Mapping[str, Any], dtype: str) -> bool:
        """Tell whether the graph of this config and dtype is there."""
        return self._wanted and _place(config, dtype).is_file()

    def traced(self, config: Mapping[str, Any], dtype: str, trace: Callable[[], ir.Model]) -> ir.Model:
        """Return what `trace` returns, from the store if it was traced before."""
        if not self._wanted:
            return trace()
        place = _place(config, dtype)
        try:
            seconds, text = _read(place)
        except (OSError, ValueError, KeyError, TypeError):
            start = time.monotonic()
            text = _text(trace())
            _write(place, time.monotonic() - start, text)
        else:
            self.saved += seconds
        return _model(text)


def _place(config: Mapping[str, Any], dtype: str) -> Path:
    key = digest_of(dict(config), dtype, code_digest(), versions_of(*_LIBRARIES))
    return cache_root() / "graphs" / f"{key}{_ENDING}"


def _read(place: Path) -> tuple[float, bytes]:
    """Return seconds and ONNX bytes. Raises OSError, ValueError, KeyError or TypeError for a file that is not whole."""
    head, _, text = place.read_bytes().partition(b"\n")
    fields = json.loads(head)
    if hashlib.sha256(text).hexdigest() != fields["sha256"]:
        raise ValueError(f"{place} is damaged")
    os.utime(place)
    return float(fields["seconds"]), text


def _write(place: Path, seconds: float, text: bytes) -> None:
    head = json.dumps({"sha256": hashlib.sha256(text).hexdigest(), "seconds": round(seconds, 3)}).encode()
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".", delete=False) as draft:
            draft.write(head + b"\n" + text)
        os.replace(draft.name, place)
        _make_room(place.parent)


def _make_room(folder: Path) -> None:
    """Delete the graphs that were not used for longest, and what a killed process left unfinished an hour ago."""
    graphs = sorted(folder.glob(f"*{_ENDING}"), key=lambda path: path.stat().st_mtime, reverse=True)
    drafts = [path for path in folder.glob(".*") if path.stat().st_mtime < time.time() - 3600]
    for path in (*graphs[MOST_GRAPHS:], *drafts):
        path.unlink(missing_ok=True)


def _text(model: ir.Model) -> bytes:
    import onnx_ir as ir

    return ir.to_proto(model).SerializeToString(deterministic=True)


def _model(text: bytes) -> ir.Model:
    import onnx
    import onnx_ir as ir

    return ir.from_proto(onnx.ModelProto.FromString(text))
