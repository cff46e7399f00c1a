"""The session of an engine folder: the backend asked for, or the best that runs here, and why others do not."""

from __future__ import annotations

from pathlib import Path

from innerq_export.engine.backends import AUTO
from innerq_export.engine.folder import read_manifest
from innerq_export.errors import ConfigError, EnvironmentMismatchError, nearest
from innerq_export.runtime.base import Session
from innerq_export.runtime.checks import CHECKPOINT_BACKEND, check_card, preflight
from innerq_export.runtime.torch_options import TorchOptions

_ON_CARD = ("tensorrt", "tensorrt-rtx")
RUN_BACKENDS = (AUTO, "onnxruntime", *_ON_CARD, CHECKPOINT_BACKEND)


def open_session(
    folder: Path,
    backend: str = AUTO,
    *,
    batch: int = 1,
    allow_unready: bool = False,
    threads: int = 0,
    torch_options: TorchOptions | None = None,
) -> Session:
    """Return a session of `folder` for `batch` sequences; 'auto' takes what `choose_backend` says.

    `threads` is for the CPU, 0 the runtime's own choice; `torch_options` for 'torch'. Raises what `preflight` and
    `check_card` raise, and ConfigError for options of another backend.
    """
    if backend not in RUN_BACKENDS:
        raise ConfigError(
            f"unknown backend '{backend}'",
            expected=", ".join(RUN_BACKENDS),
            got=backend,
            fix=nearest(backend, RUN_BACKENDS),
        )
    if backend == AUTO:
        backend, _ = choose_backend(folder, allow_unready=allow_unready)
    if backend == CHECKPOINT_BACKEND:
        from innerq_export.runtime.torch_session import TorchSession

        return TorchSession(folder, torch_options, batch=batch, allow_unready=allow_unready, threads=threads)
    if torch_options and torch_options.changed:
        raise ConfigError(
            f"options of backend 'torch' given to '{backend}'",
            got=", ".join(torch_options.changed),
            fix="add --backend torch, or leave them out",
        )
    if backend in _ON_CARD:
        from innerq_export.runtime.tensorrt import TensorRtSession

        return TensorRtSession(folder, backend=backend, batch=batch, allow_unready=allow_unready)
    from innerq_export.runtime.session import OnnxRuntimeSession

    return OnnxRuntimeSession(folder, batch=batch, allow_unready=allow_unready, threads=threads)


def choose_backend(folder: Path, *, allow_unready: bool = False) -> tuple[str, dict[str, EnvironmentMismatchError]]:
    """Return the first backend of the folder that this machine can run, and the reasons against those before it.

    TensorRT before TensorRT-RTX before ONNX Runtime, which is always there. Raises what `preflight` raises about the
    folder itself.
    """
    refused: dict[str, EnvironmentMismatchError] = {}
    manifest = read_manifest(folder)
    for backend in [name for name in _ON_CARD if name in manifest.backends]:
        try:
            check_card(preflight(folder, backend, allow_unready=allow_unready), folder, backend)
        except EnvironmentMismatchError as error:
            refused[backend] = error
        else:
            return backend, refused
    return "onnxruntime", refused
