"""parity.json: what was checked, what was found, and where the first wrong thing is. Versioned; no torch."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from innerq_export.errors import UserError

SCHEMA_VERSION = 2
_PACKAGES = ("innerq-export", "onnxruntime", "torch", "transformers")
PASSED, FAILED, NOT_RUN, REPORTED = "passed", "failed", "not run", "reported"


@dataclass(frozen=True)
class Finding:
    """The first wrong thing. Places that do not apply are None; `call` counts from 0 within `case`."""

    rung: str
    what: str
    expected: str
    got: str
    advice: str
    case: str
    call: int
    sequence: int | None = None
    layer: int | None = None
    kv_head: int | None = None
    head: int | None = None
    block: int | None = None
    token: int | None = None

    @property
    def place(self) -> str:
        """Where it is, outermost first: 'layer 2, KV head 0, block 3, token 129, sequence 1'."""
        parts = [
            f"{name} {value}"
            for name, value in (
                ("layer", self.layer),
                ("KV head", self.kv_head),
                ("head", self.head),
                ("block", self.block),
                ("token", self.token),
                ("sequence", self.sequence),
            )
            if value is not None
        ]
        return ", ".join(parts) or "whole model"

    def text(self) -> str:
        """Return four lines: rung and thing, place, expected and got, what to do next."""
        return "\n".join(
            [
                f"rung '{self.rung}': {self.what}",
                f"  at:       {self.place} (case '{self.case}', call {self.call})",
                f"  expected: {self.expected}; got: {self.got}",
                f"  next:     {self.advice}",
            ]
        )


@dataclass(frozen=True)
class RungResult:
    """One rung, on one backend. `status`: passed, failed, not run (`reason` says why) or reported (no verdict).

    `figures`: numbers by name; `tolerance`: what had to hold; `calls`: how many calls were checked.
    """

    name: str
    status: str
    tolerance: str
    calls: int = 0
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    reason: str = ""
    backend: str = ""

    @property
    def title(self) -> str:
        """Rung and backend."""
        return f"{self.name}: {self.backend}" if self.backend else self.name


@dataclass(frozen=True)
class ParityReport:
    """The verdict on one engine folder. `engine` and `against` say what was compared with what, `versions` with which
    libraries; `cases` what was run; `layers_db` the worst attention output of each layer; `kl_by_position` the mean KL
    to the unquantised model at each token position.
    """

    engine: str
    against: str
    passed: bool
    rungs: tuple[RungResult, ...]
    finding: Finding | None
    cases: tuple[str, ...]
    layers_db: tuple[float, ...]
    versions: Mapping[str, str]
    seconds: float
    notes: tuple[str, ...] = ()
    kl_by_position: tuple[tuple[int, float], ...] = ()
    schema: int = SCHEMA_VERSION

    def replace(self, **changes: Any) -> ParityReport:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def summary(self) -> dict[str, Any]:
        """Return what the manifest keeps: verdict, one line of text, figures against the unquantised model."""
        line = (
            "all rungs passed" if self.passed else f"{self.finding.what}, {self.finding.place}" if self.finding else ""
        )
        figures = {
            name: value for rung in self.rungs if rung.status == REPORTED for name, value in rung.figures.items()
        }
        return {"passed": self.passed, "summary": line, "figures": figures}

    def to_json(self) -> str:
        """Return the text of parity.json; infinite figures (nothing differs) are written as null."""
        return json.dumps(_plain(dataclasses.asdict(self)), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ParityReport:
        """Return the report that `to_json` wrote. UserError for another schema or a broken file."""
        try:
            fields = json.loads(text)
            found = fields.get("schema")
        except (json.JSONDecodeError, AttributeError) as error:
            raise UserError("parity.json is not a JSON object", got=str(error), fix="run parity again") from error
        if found != SCHEMA_VERSION:
            raise UserError(
                "parity.json has another schema", expected=SCHEMA_VERSION, got=found, fix="run parity again"
            )
        fields["rungs"] = tuple(RungResult(**rung | {"figures": _floats(rung["figures"])}) for rung in fields["rungs"])
        fields["finding"] = Finding(**fields["finding"]) if fields["finding"] else None
        fields["layers_db"] = tuple(float("inf") if value is None else value for value in fields["layers_db"])
        fields["kl_by_position"] = tuple((token, kl) for token, kl in fields["kl_by_position"])
        return cls(**fields | {name: tuple(fields[name]) for name in ("cases", "notes")})

    def text(self) -> str:
        """Return the report as a person reads it: the finding first if there is one, then a line per rung."""
        head = [self.finding.text(), ""] if self.finding else []
        width = max(len(rung.title) for rung in self.rungs)
        lines = [f"{_MARK[rung.status]} {rung.title:<{width}}  {_figures(rung)}".rstrip() for rung in self.rungs]
        tail = f"{len(self.cases)} cases, {self.seconds:.0f} s; {self.engine} against {self.against}"
        return "\n".join([*head, *lines, tail])


def versions_here() -> dict[str, str]:
    """Return the versions of the packages that a report depends on."""
    return {package: _version(package) for package in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


_MARK = {PASSED: "ok  ", FAILED: "FAIL", NOT_RUN: "--  ", REPORTED: "    "}


def _figures(rung: RungResult) -> str:
    if rung.status == NOT_RUN:
        return f"not run: {rung.reason}"
    figures = ", ".join(f"{name} {_number(value)}" for name, value in rung.figures.items())
    return "; ".join(part for part in (figures, rung.tolerance, f"{rung.calls} calls") if part)


def _number(value: float) -> str:
    return f"{int(value):,}" if math.isfinite(value) and value == int(value) else f"{value:.4g}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _floats(figures: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float("inf") if value is None else value for name, value in figures.items()}
