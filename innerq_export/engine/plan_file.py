"""Builder -> plan file, piece by piece where the binding can: a plan in memory is another copy of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from innerq_export.engine.plan_stream import PlanStream
from innerq_export.errors import UserError


def write_plan(trt: Any, builder: Any, network: Any, config: Any, path: Path) -> str | None:
    """Build `network` with module `trt` into the file `path`; return its SHA-256 as hex, None if there is no plan.

    Raises UserError when the file cannot be written. On any failure a part of it may stay.
    """
    try:
        with PlanStream(path) as stream:
            if hasattr(builder, "build_serialized_network_to_stream"):
                writer = _writer(trt, stream)
                made = builder.build_serialized_network_to_stream(network, config, writer)
                if writer.error is not None:
                    raise writer.error
            else:
                plan = builder.build_serialized_network(network, config)
                made = plan is not None and stream.write(plan) > 0
    except OSError as error:
        raise UserError(
            f"{path.parent}: the plan cannot be written",
            expected="room for it",
            got=error.strerror,
            fix="free some space, or name another output folder",
        ) from error
    return stream.sha256 if made else None


def _writer(trt: Any, stream: PlanStream) -> Any:
    """Return an IStreamWriter that keeps an OSError in `error` and writes no more: nothing may be raised into C++."""

    class Writer(trt.IStreamWriter):
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.error: OSError | None = None

        def write(self, data: Any) -> int:
            try:
                return 0 if self.error else stream.write(data)
            except OSError as error:
                self.error = error
                return 0

    return Writer()
