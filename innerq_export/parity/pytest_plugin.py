"""`pytest --innerq-engine FOLDER`: every rung of parity as a test of your own run.

Nothing is imported and nothing added without the option. Rungs that cannot run are skipped with their reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from innerq_export.parity.report import ParityReport, RungResult


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("innerq", "InnerQ engines")
    group.addoption("--innerq-engine", action="append", default=[], metavar="FOLDER", help="Check this engine folder.")
    group.addoption("--innerq-model", metavar="MODEL", help="What it was built from, if not what its manifest names.")
    group.addoption("--innerq-full", action="store_true", help="All cases, not only the fast subset.")


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the tests of every engine folder named."""
    for folder in config.getoption("--innerq-engine"):
        collector = EngineTests.from_parent(session, name=folder, path=Path(folder).absolute())
        items.extend(collector.collect())


class EngineTests(pytest.Collector):
    """One engine folder."""

    def __init__(self, *, path: Path, **others: Any):
        super().__init__(path=path, **others)

    def collect(self) -> Iterator[pytest.Item]:
        """Yield one test for each rung and backend. Running parity is put off until the first of them runs."""
        from innerq_export.parity.rung_names import RUNG_NAMES

        for name in RUNG_NAMES:
            yield RungTest.from_parent(self, name=name)


class RungTest(pytest.Item):
    """A rung on all its backends."""

    def runtest(self) -> None:
        """Fail with the finding, skip where nothing of the rung could run."""
        options = self.config.getoption
        report = _report(self.path, options("--innerq-model"), options("--innerq-full"))
        rungs = [rung for rung in report.rungs if rung.name == self.name]
        if any(rung.status == "failed" for rung in rungs):
            raise RungFailedError(report.finding.text() if report.finding else self.name)
        if all(rung.status == "not run" for rung in rungs):
            pytest.skip("; ".join(_reason(rung) for rung in rungs) or "only with --innerq-full")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show the finding alone; a traceback would only show this plugin."""
        from innerq_export.errors import UserError

        if isinstance(excinfo.value, (RungFailedError, UserError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return what a failing test's headline says."""
        return self.path, None, f"InnerQ parity of {self.path.name}: {self.name}"


class RungFailedError(Exception):
    """A rung found something."""


@cache
def _report(folder: Path, model: str | None, full: bool) -> ParityReport:
    from innerq_export.parity import check_engine
    from innerq_export.pipeline import source_of

    return check_engine(folder, source_of(folder, model), extent="full" if full else "fast")


def _reason(rung: RungResult) -> str:
    return f"{rung.backend}: {rung.reason}" if rung.backend else rung.reason
