"""Which backend builds: the one asked for, or the best of those that work here; and why each other does not."""

from __future__ import annotations

from innerq_export.engine.base import Backend, BuildOptions
from innerq_export.engine.onnxruntime import OnnxRuntimeBackend
from innerq_export.engine.tensorrt import TensorRtBackend
from innerq_export.engine.tensorrt_rtx import TensorRtRtxBackend
from innerq_export.errors import ConfigError, EnvironmentMismatchError, nearest

AUTO = "auto"
_BACKENDS: tuple[Backend, ...] = (TensorRtRtxBackend(), OnnxRuntimeBackend(), TensorRtBackend())
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in _BACKENDS}


def resolve(name: str, options: BuildOptions | None = None) -> Backend:
    """Return the backend of this name; 'auto' takes tensorrt-rtx where it is installed, else onnxruntime.

    Raises ConfigError for an unknown name, EnvironmentMismatchError with what to install for one that cannot build
    here, and what its `check` raises for `options`.
    """
    backend = _usable(name)
    if options is not None:
        backend.check(options)
    return backend


def _usable(name: str) -> Backend:
    if name == AUTO:
        return next(backend for backend in BACKENDS.values() if backend.refusal() is None)
    if name not in BACKENDS:
        known = [AUTO, *BACKENDS]
        raise ConfigError(f"unknown backend '{name}'", expected=", ".join(known), got=name, fix=nearest(name, known))
    backend = BACKENDS[name]
    refusal = backend.refusal()
    if refusal is not None:
        raise EnvironmentMismatchError(
            f"backend '{name}' cannot build here", expected=backend.needs, got=refusal, fix=backend.install
        )
    return backend


def refusals() -> dict[str, str | None]:
    """Return for every backend why it cannot build here, or None where it can."""
    return {name: backend.refusal() for name, backend in BACKENDS.items()}
