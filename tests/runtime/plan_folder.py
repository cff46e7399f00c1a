"""Engine folders with a plan for the stand-in, and the machine that they are for."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import onnx
import torch

from innerq_export.engine import read_manifest, seal
from innerq_export.engine.card import Card
from innerq_export.engine.folder import write_manifest
from innerq_export.engine.profiles import Profile, default_profiles
from innerq_export.engine.versions import version_of
from innerq_export.runtime import checks
from innerq_export.runtime import tensorrt as tensorrt_module
from tests.runtime import stand_in

CARD = Card("a card", "8.9", "13.0")
VERSIONS = {"tensorrt": "11.4.0", "tensorrt-rtx": "1.7.1"}
PLUGIN = {"file": "libinnerq_trt.so", "spec_version": 1, "git": "0", "architectures": "89", "sha256": ""}


class HostStream:
    """A CudaStream of the CPU."""

    device = torch.device("cpu")
    handle = 0

    def scope(self):
        return contextlib.nullcontext()


def pretend(monkeypatch, card=CARD, **versions):
    """This machine has TensorRT, as the stand-in is, and a card."""
    here = VERSIONS | versions | {"onnxruntime": version_of("onnxruntime")}
    monkeypatch.setattr(checks, "version_of", here.get)
    monkeypatch.setattr(checks, "first_card", lambda: card)
    monkeypatch.setattr(tensorrt_module, "CudaStream", HostStream)
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", stand_in)


def with_plan(source: Path, folder: Path, backend: str, model: Path, max_context: int, profiles=None) -> Path:
    """Copy engine folder `source` to `folder` and add `backend`, whose plan is the ONNX file `model`."""
    shutil.copytree(source, folder)
    manifest = read_manifest(folder)
    profiles = profiles or default_profiles(manifest.model, manifest.cache, 2, max_context)
    names = write_plan(folder / "model.engine", model, profiles, aliased=backend == "tensorrt")
    record = {"files": [], "versions": {backend: VERSIONS[backend]}, "profiles": [asdict(p) for p in profiles]}
    if backend == "tensorrt":
        (folder / PLUGIN["file"]).write_bytes(b"library")
        record |= {"plugin": PLUGIN, "card": asdict(CARD), "onnx": "model.plugin.onnx"}
    else:
        record |= {"compute_capabilities": ["8.6", "8.9"]}
    pairs = [(name, name.replace("past", "present", 1)) for name in names] if backend == "tensorrt" else []
    added = {"backends": {**manifest.backends, backend: record}, "aliases": tuple(pairs)}
    write_manifest(folder, manifest.replace(**added, max_batch=2, max_context=max_context))
    seal(folder, ready=True, parity=None)
    return folder


def write_plan(path: Path, model: Path, profiles: tuple[Profile, ...], *, aliased: bool) -> list[str]:
    """Write the plan and return the names of its cache inputs."""
    content = onnx.load(model)
    stated = {"profiles": json.dumps([asdict(profile) for profile in profiles]), "aliased": json.dumps(aliased)}
    onnx.helper.set_model_props(content, stated)
    path.write_bytes(content.SerializeToString())
    names = [value.name for value in content.graph.input]
    return [name for name in names if name.startswith("past_") and name != "past_length"]
