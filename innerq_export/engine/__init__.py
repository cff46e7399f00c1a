"""ONNX model -> engine folder: backends, optimisation profiles, manifest. Nothing heavy is imported here."""

from innerq_export.engine.backends import AUTO, BACKENDS, refusals, resolve
from innerq_export.engine.base import BuildOptions
from innerq_export.engine.build import build_engine
from innerq_export.engine.folder import load_engine, read_manifest, seal, staging
from innerq_export.engine.inspect import Inspection, inspect_engine
from innerq_export.engine.manifest import Manifest, rebuild_command
from innerq_export.engine.profiles import DEFAULT_MAX_BATCH, Profile, default_profiles
from innerq_export.engine.request import BuildRequest
from innerq_export.engine.tensorrt import PLUGIN_ONNX_NAME, require_half

__all__ = [
    "AUTO",
    "BACKENDS",
    "DEFAULT_MAX_BATCH",
    "PLUGIN_ONNX_NAME",
    "BuildOptions",
    "BuildRequest",
    "Inspection",
    "Manifest",
    "Profile",
    "build_engine",
    "default_profiles",
    "inspect_engine",
    "load_engine",
    "read_manifest",
    "rebuild_command",
    "refusals",
    "require_half",
    "resolve",
    "seal",
    "staging",
]
