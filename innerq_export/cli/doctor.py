"""`innerq-export doctor`: what is installed, what is missing, and whether a model's nodes find their plugin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from innerq_export.cli.output import note, print_json
from innerq_export.cli.params import RESULT_FILE, format_option
from innerq_export.doctor.finding import Finding

MARKS = {"ok": "ok", "absent": "-", "warning": "warning", "problem": "PROBLEM", "unknown": "?"}


@click.command("doctor")
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--library", type=click.Path(path_type=Path), help="Plugin library to judge.  [default: the one in use]")
@click.option("--bundle", type=RESULT_FILE, help="Also write a zip for a bug report.")
@format_option
def command(model: Path | None, library: Path | None, bundle: Path | None, form: str) -> int:
    """Examine this machine and, with MODEL (an ONNX file or an engine folder), every node against the plugin library.

    Exit code 4 when something stands in the way.
    """
    from innerq_export.doctor import examine
    from innerq_export.doctor.bundle import write_bundle

    report = examine(model, library)
    if form == "json":
        print_json(report.to_dict())
    else:
        _print(report.findings)
    if bundle is not None:
        note(f"{bundle}: {', '.join(write_bundle(bundle, report, model))}")
    return 4 if report.problems else 0


def _print(findings: Sequence[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    gap = " " * (width + 13)
    topic = ""
    for finding in findings:
        if finding.topic != topic:
            topic = finding.topic
            click.echo(topic)
        first, *more = finding.text.splitlines()
        click.echo(f"  {MARKS[finding.state]:<8} {finding.name:<{width}}  {first}")
        more += [f"fix: {finding.fix}"] if finding.fix and finding.state != "ok" else []
        for line in more:
            click.echo(f"{gap}{line}")
