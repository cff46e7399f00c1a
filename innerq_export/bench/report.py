"""The result of a bench: rows that say what was measured, and where, when and with what."""

from __future__ import annotations

import dataclasses
import datetime
import json
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = "innerq-bench-kernels/1"
MAX_ERROR = 2e-3


@dataclass(frozen=True)
class Row:
    """One timed kernel. `bytes_moved` is what must move, `copy_percent` its rate over this run's copy bandwidth.

    `error`, `error_peaked`: relative L2 against fp64 on the same cache, on fresh inputs, ordinary and with a peaked
    softmax; of an append the number of words that differ from the reference's cache. `vs_fp16`, `vs_fp8`: time of the
    best such peer of this run and shape over ours.
    """

    section: str
    name: str
    kernel: str
    precision: str
    ev_us: float
    graph_us: float | None
    bytes_moved: int
    copy_percent: float
    error: float | None = None
    error_peaked: float | None = None
    preset: str = ""
    batch: int = 0
    query_heads: int = 0
    kv_heads: int = 0
    tokens: int = 0
    layout: str = ""
    reach_us: float | None = None
    vs_fp16: float | None = None
    vs_fp8: float | None = None
    note: str = ""

    @property
    def right(self) -> bool:
        """Whether no error is above 2e-3, of an append 0, or not a number."""
        return all(error <= MAX_ERROR for error in (self.error, self.error_peaked) if error is not None)

    @property
    def tb_s(self) -> float:
        """Terabytes per second by events."""
        return self.bytes_moved / self.ev_us / 1e6


@dataclass(frozen=True)
class Report:
    """All rows of a run. `refused`: peers that could not do a shape, with the reason. `environment`: versions, card."""

    command: str
    environment: dict[str, Any]
    copy_tb_s: float
    rows: list[Row]
    refused: list[str] = field(default_factory=list)
    paper: list[dict[str, Any]] = field(default_factory=list)

    def wrong(self) -> list[Row]:
        """Return the rows of ours that are not right."""
        return [row for row in self.rows if row.kernel.startswith("innerq") and not row.right]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        rows = [dataclasses.asdict(row) | {"tb_s": round(row.tb_s, 3)} for row in self.rows]
        head = {"schema": SCHEMA, "command": self.command, "environment": self.environment, "method": METHOD}
        tail = {"copy_tb_s": round(self.copy_tb_s, 3), "rows": rows, "refused": self.refused, "paper": self.paper}
        return head | tail

    def write(self, folder: Path, stem: str) -> list[Path]:
        """Write <stem>.json and <stem>.md into `folder`, which is made; return their paths."""
        from innerq_export.bench.markdown import markdown

        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{stem}.json", folder / f"{stem}.md"]
        paths[0].write_text(json.dumps(self.to_dict(), indent=1) + "\n")
        paths[1].write_text(markdown(self))
        return paths


METHOD = (
    "ev: median of CUDA-event pairs per launch, data rotated over at least 400 MB, queue kept full; "
    "graph: launches of the same rotation replayed in one CUDA graph; copy: device-to-device copy by ev, "
    "read plus written. Compare within one run only."
)


def environment(device_name: str, library: dict[str, Any]) -> dict[str, Any]:
    """Return what a figure depends on: card, driver-side and Python versions, the library's build, the date."""
    import torch

    versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    if torch.backends.cudnn.is_available():
        versions["cudnn"] = torch.backends.cudnn.version()
    if "flashinfer" in sys.modules:
        versions["flashinfer"] = sys.modules["flashinfer"].__version__
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"device": device_name, "date": today, "library": library, **versions}
