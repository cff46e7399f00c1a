"""The examination as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from innerq_export import __version__
from innerq_export.doctor import packages, plugin, system, tensorrt
from innerq_export.doctor.engine import check_engine_folder
from innerq_export.doctor.finding import Finding, Probe, guarded
from innerq_export.doctor.nodes import check_nodes
from innerq_export.errors import UserError

ONNX_NAMES = ("model.plugin.onnx", "model.onnx")
"""In a folder the form with bare nodes comes first: it is the one that needs the plugin."""
PROBES: tuple[tuple[str, Probe], ...] = (
    ("system", system.python),
    ("system", system.memory),
    ("system", system.disk),
    ("gpu", system.cards),
    ("tools", system.tools),
    ("packages", packages.packages),
    ("tensorrt", tensorrt.headers),
    ("tensorrt", tensorrt.loaded),
)


@dataclass(frozen=True)
class Report:
    """Everything that was found, in order."""

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> list[Finding]:
        """What stands in the way of what was asked for."""
        return [finding for finding in self.findings if finding.state == "problem"]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "schema": 1,
            "innerq_export": __version__,
            "problems": len(self.problems),
            "findings": [asdict(finding) for finding in self.findings],
        }


def examine(model: Path | None = None, library: Path | None = None) -> Report:
    """Run every probe. `model`: an ONNX file or an engine folder; `library`: the plugin library to judge.

    Without `library` that of the model's folder is taken, else the one the package would load. UserError where `model`
    is neither.
    """
    onnx_file = onnx_of(model) if model else None
    if library is None and onnx_file is not None:
        library = next(iter(sorted(onnx_file.parent.glob("libinnerq_trt*.so"))), None)
    findings = [finding for topic, probe in PROBES for finding in guarded(topic, probe)]
    found: list[plugin.PluginLibrary] = []
    findings += guarded("plugin", lambda: _library(library, found.append))
    if model is not None and (model / "manifest.json").is_file():
        findings += guarded("engine", lambda: check_engine_folder(model))
    if onnx_file is not None:
        findings += guarded("onnx", lambda: check_nodes(onnx_file, found[0] if found else None))
    return Report(tuple(findings))


def _library(explicit: Path | None, keep: Callable[[plugin.PluginLibrary], None]) -> list[Finding]:
    library, findings = plugin.find_library(explicit)
    if library is not None:
        keep(library)
    return findings


def onnx_of(model: Path) -> Path:
    """Return the ONNX file that `model` is or holds; UserError where there is none."""
    inside = (model / name for name in ONNX_NAMES)
    file = next((file for file in inside if file.is_file()), model)
    if file.is_file() and file.suffix == ".onnx":
        return file
    raise UserError(
        f"no ONNX model at {model}",
        expected=f"an .onnx file, or a folder with {' or '.join(ONNX_NAMES)}",
        got="another file" if model.is_file() else "a folder without one" if model.is_dir() else "nothing there",
        fix="leave it out to look at the machine alone; innerq-export build makes a folder",
    )
