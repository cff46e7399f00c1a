"""The one place that writes: results to stdout as text or JSON, progress to stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from innerq_export.progress import Step

_stderr = Console(stderr=True, highlight=False)


def print_json(result: Mapping[str, Any]) -> None:
    """Write one JSON object to stdout."""
    click.echo(json.dumps(result, indent=2, sort_keys=False, default=str))


def print_table(title: str, rows: Mapping[str, object]) -> None:
    """Write names and values to stdout, aligned, a line each."""
    width = max(map(len, rows), default=0)
    click.echo(title)
    for name, value in rows.items():
        click.echo(f"  {name:<{width}}  {value}")


def note(text: str) -> None:
    """Write a line to stderr."""
    _stderr.print(text, markup=False, soft_wrap=True)


class RichProgress:
    """Progress on stderr: a bar with time left on a terminal, one line per finished stage elsewhere."""

    @contextmanager
    def stage(self, name: str) -> Iterator[Step]:
        """Show a stage while it runs and how long it took."""
        start = time.perf_counter()
        if _stderr.is_terminal:
            with _bars() as bars:
                yield _Bar(bars, bars.add_task(name, total=1.0, note=""))
        else:
            yield _NoBar()
        note(f"  {name}: {time.perf_counter() - start:.1f} s")


def _bars() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(24), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[note]}"), console=_stderr, transient=True)


class _Bar:
    def __init__(self, bars: Progress, task: TaskID):
        self.bars, self.task = bars, task

    def advance(self, fraction: float, note: str = "") -> None:
        """Move the bar."""
        self.bars.update(self.task, completed=fraction, note=note)


class _NoBar:
    def advance(self, fraction: float, note: str = "") -> None:
        """Nothing to move where stderr is no terminal."""
