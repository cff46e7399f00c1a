"""A zip for a bug report: the doctor's findings and the model's outline. No weights, no secrets, no home folder."""

from __future__ import annotations

import json
import os
import zipfile
from importlib import metadata
from pathlib import Path

from innerq_export.doctor.nodes import custom_nodes
from innerq_export.doctor.report import Report, onnx_of

ENVIRONMENT = ("CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "TENSORRT_INCLUDE_DIR")
PREFIX = "INNERQ_"
SMALL_FILES = ("manifest.json", "plan.json", "parity.json", "config.json")
LARGEST = 1 << 20


def write_bundle(target: Path, report: Report, model: Path | None) -> list[str]:
    """Write the zip and return the names of its files. Only files named here go in, and none above 1 MiB."""
    texts = {
        "doctor.json": json.dumps(report.to_dict(), indent=2),
        "packages.txt": "\n".join(sorted(f"{d.name}=={d.version}" for d in metadata.distributions())),
        "environment.txt": "\n".join(f"{name}={os.environ[name]}" for name in sorted(os.environ) if _may_go(name)),
        **({} if model is None else _model_texts(model)),
    }
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, text in texts.items():
            bundle.writestr(name, without_home(text))
    return list(texts)


def without_home(text: str) -> str:
    """Write the user's home folder as ~: paths often hold a name."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def _may_go(name: str) -> bool:
    return name in ENVIRONMENT or name.startswith(PREFIX)


def _model_texts(model: Path) -> dict[str, str]:
    folder = model if model.is_dir() else model.parent
    texts = {}
    for name in SMALL_FILES:
        file = folder / name
        if file.is_file() and file.stat().st_size <= LARGEST:
            texts[name] = file.read_text(errors="replace")
    onnx_file = onnx_of(model)
    nodes = [
        {"name": n.name, "op": n.op, "domain": n.domain, "attributes": n.attributes} for n in custom_nodes(onnx_file)
    ]
    return texts | {"nodes.json": json.dumps(nodes, indent=1, default=str)}
