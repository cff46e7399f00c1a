"""Builder -> plan file, piece by piece where the binding can: a plan in memory is another copy of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from innerq_export.errors import UserError


def write_plan(trt: Any, builder: Any, network: Any, config: Any, path: Path) -> bool:
    """Build `network` with module `trt` into the file `path`; return whether the builder made a plan.

    Raises UserError when the file cannot be written. On any failure a part of it may stay.
    """
    if not hasattr(builder, "build_serialized_network_to_stream"):
        plan = builder.build_serialized_network(network, config)
        if plan is not None:
            path.write_bytes(plan)
        return plan is not None
    try:
        with path.open("wb") as file:
            writer = _writer(trt, file)
            made = builder.build_serialized_network_to_stream(network, config, writer)
            if writer.error is not None:
                raise writer.error
    except OSError as error:
        raise UserError(
            f"{path.parent}: the plan cannot be written",
            expected="room for it",
            got=error.strerror,
            fix="free some space, or name another output folder",
        ) from error
    return bool(made)


def _writer(trt: Any, file: BinaryIO) -> Any:
    """Return an IStreamWriter that keeps an OSError in `error` and writes no more: nothing may be raised into C++."""

    class Writer(trt.IStreamWriter):
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.error: OSError | None = None

        def write(self, data: Any) -> int:
            try:
                return 0 if self.error else file.write(data)
            except OSError as error:
                self.error = error
                return 0

    return Writer()
