"""Where each initializer's bytes go: a hard link to the file they are in, or one new file, tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir

from innerq_export.artifacts import WeightFile
from innerq_export.onnx_io.external import require_bytes
from innerq_export.onnx_io.staging import Staging
from innerq_export.progress import Step

INLINE_BYTES = 1024
ALIGNMENT = 64
_COPY_BYTES = 16 << 20


def place_weights(model: ir.Model, staging: Staging, data_name: str, copy: bool, step: Step) -> tuple[WeightFile, ...]:
    """Give every large or external initializer of `model` a location among the staged files; return these files.

    Other tensors up to 1 KiB stay in the model. With `copy`, and where a link is refused, bytes go to `data_name`.
    """
    values = [value for graph in model.graphs() for value in graph.initializers.values() if _goes_out(value)]
    links = _Links(staging, data_name, wanted=not copy)
    others = [value for value in values if not links.take(value)]
    written = _write(others, staging, data_name, step)
    reason = "; ".join(links.refused) or ("asked for" if copy else "dtype or values changed")
    return (*links.files, *([WeightFile(data_name, "copied", written, reason)] if others else []))


def _goes_out(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and (isinstance(tensor, ir.ExternalTensor) or tensor.nbytes > INLINE_BYTES)


class _Links:
    """Hard links from the staged folder to the files that hold initializers, one name per file."""

    def __init__(self, staging: Staging, data_name: str, wanted: bool) -> None:
        self.staging, self.wanted = staging, wanted
        self.refused: list[str] = []
        self._names: dict[Path, str | None] = {}
        self._taken = {data_name}

    @property
    def files(self) -> list[WeightFile]:
        """The links made."""
        made = {name: path for path, name in self._names.items() if name}
        return [WeightFile(name, "linked", path.stat().st_size, "") for name, path in made.items()]

    def take(self, value: ir.Value) -> bool:
        """Point an initializer at the link of its file; False where it lies in no file or a link is refused."""
        tensor = value.const_value
        if not self.wanted or not isinstance(tensor, ir.ExternalTensor):
            return False
        source = require_bytes(tensor)
        if source not in self._names:
            self._names[source] = self._link(source)
        name = self._names[source]
        if name:
            value.const_value = _external(value, name, tensor.offset or 0, self.staging)
        return bool(name)

    def _link(self, source: Path) -> str | None:
        name = source.name
        if source.parent == self.staging.folder.resolve():
            return name
        while name in self._taken:
            name = f"{len(self._taken)}-{name}"
        try:
            os.link(source, self.staging.path(name))
        except OSError as error:
            self.refused.append(f"no hard link to {source.name}: {error.strerror}")
            return None
        self._taken.add(name)
        return name


def _write(values: list[ir.Value], staging: Staging, data_name: str, step: Step) -> int:
    """Stream the initializers into one file and point them at it; return its size."""
    total = sum(value.const_value.nbytes for value in values if value.const_value is not None)
    offset = 0
    if values:
        with staging.path(data_name).open("wb") as file:
            for value in values:
                file.write(bytes(-offset % ALIGNMENT))
                start = file.tell()
                for _ in _copy_tensor(value, file):
                    step.advance(min(1.0, file.tell() / total), str(value.name))
                offset = file.tell()
                value.const_value = _external(value, data_name, start, staging)
    return offset


def _copy_tensor(value: ir.Value, file: BinaryIO) -> Iterator[None]:
    """Write a tensor's bytes, yielding now and then. External bytes are read here: onnx_ir refuses linked files."""
    tensor = value.const_value
    assert tensor is not None
    start = file.tell()
    if isinstance(tensor, ir.ExternalTensor):
        with require_bytes(tensor).open("rb") as source:
            source.seek(tensor.offset or 0)
            while (left := tensor.nbytes - (file.tell() - start)) and (part := source.read(min(left, _COPY_BYTES))):
                file.write(part)
                yield
    elif hasattr(tensor, "tofile"):
        tensor.tofile(file)
    else:
        file.write(tensor.tobytes())
    yield


def _external(value: ir.Value, name: str, offset: int, staging: Staging) -> ir.ExternalTensor:
    tensor = value.const_value
    assert tensor is not None
    folder = staging.path(name).parent
    shape = ir.Shape(list(tensor.shape.numpy()))
    return ir.ExternalTensor(
        name, offset, tensor.nbytes, tensor.dtype, shape=shape, name=str(value.name), base_dir=folder
    )
