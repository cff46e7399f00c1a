"""The pages that quote the bench: their figures are the reports', their commands run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from innerq_export.bench import kernels
from innerq_export.bench.cases import table_cases
from innerq_export.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "bench" / "README.md"
PAPER_3_BITS = (("QK^T", "int3_sym_headdim"), ("AV", "int3_sym_Ndim"))
README = (ROOT / "README.md").read_text()
REPORT = json.loads((ROOT / "docs" / "bench" / "kernels-h200.json").read_text())


def row_of(case, **wanted):
    """The fastest row of a case's batch, heads and tokens with such fields."""
    shape = {"batch": case.batch, "query_heads": case.query_heads, "kv_heads": case.kv_heads, "tokens": case.tokens}
    wanted |= shape
    rows = [row for row in REPORT["rows"] if all(row[name] == value for name, value in wanted.items())]
    return min(rows, key=lambda row: row["ev_us"])


def line_of(case):
    """The case's line in README.md, as the report has it."""
    ours = {"kernel": "innerq", "precision": "balanced", "section": "table"}
    plain, paged = (row_of(case, layout=layout, **ours) for layout in ("plain", "paged"))
    fp16, fp8 = (row_of(case, precision=precision)["ev_us"] for precision in ("fp16", "fp8"))
    name = f"{case.batch} x {case.tokens // 1024}K, {case.query_heads}/{case.kv_heads}"
    cells = [name, f"{plain['ev_us']:.1f}", f"{fp16:.1f}", f"{fp8:.1f}"]
    cells += [f"{plain['vs_fp16']:.2f} / {plain['vs_fp8']:.2f}", f"{case.reach_us:.0f}", f"{paged['ev_us']:.1f}"]
    return "| " + " | ".join(cells) + " |"


@pytest.mark.parametrize(
    "case",
    [case for case in table_cases() if (case.preset, case.layout) == ("balanced", "plain")],
    ids=lambda c: c.name,
)
def test_readme_says_what_the_report_says(case):
    assert line_of(case) in README.splitlines(), f"README.md must say {line_of(case)}"


def test_readme_names_the_kernels_that_were_measured():
    table = README[README.index("## Kernels") : README.index("## Decoding end to end")]
    assert f"kernels {REPORT['environment']['library']['git_hash'][:7]}" in table
    assert REPORT["environment"]["date"] in table


def test_the_page_says_what_the_papers_kernels_took():
    told = json.loads(PAGE.with_name("paper-h200.json").read_text())
    took = {(row["product"], row["tokens"], row["kernel"]): row["us"] for row in told["paper"]}
    qkt, pv = ([took[what, n, kind] for n in (131072, 32768, 4096)] for what, kind in PAPER_3_BITS)
    ours = next(row for row in told["rows"] if row["name"] == "1 x 128K 32/32" and row["preset"] == "balanced")
    (item,) = re.findall(r"^- The paper's kernels .*?(?=^\S)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    figures = [qkt[0], pv[0], ours["ev_us"], qkt[1], pv[1], qkt[2], pv[2]]
    assert re.findall(r"\d+\.\d", item.split("32/32 heads,")[1]) == [f"{us:.1f}" for us in figures]


def test_the_commands_about_the_papers_kernels_run(host_library, tmp_path, monkeypatch):
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    clone, bench = (shlex.split(line) for line in block.splitlines())
    assert clone == ["git", "clone", "https://github.com/mthcom/innerq"]
    (tmp_path / "innerq" / "speedtest").mkdir(parents=True)
    (tmp_path / "innerq" / "speedtest" / "one.cu").write_text("int main() {}")
    nvcc = tmp_path / "nvcc"
    says = 'echo "AV,N:7,x,Latency:1.5"'
    nvcc.write_text(f"#!/bin/sh\n[ $# = 6 ] || exit 0\nprintf '#!/bin/sh\\n%s\\n' '{says}' > $6\nchmod +x $6\n")
    nvcc.chmod(0o755)
    for name, value in {"CUDACXX": str(nvcc), "INNERQ_EXPORT_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kernels, "_architecture", lambda device: 90)
    monkeypatch.setattr(kernels, "load", lambda kind, path: host_library)
    monkeypatch.setitem(kernels._WORK, "table", kernels._WORK["smoke"])
    result = CliRunner().invoke(cli, bench[1:])
    assert result.exit_code == 0, result.output
    assert json.loads(Path("measured/kernels.json").read_text())["paper"][0]["tokens"] == 7
