"""Time and memory of a TensorRT-RTX engine at full-size shapes, as `innerq-export build` makes it.

    python scripts/measure_engine.py --shape 1b --folder /somewhere/large [--json FILE] [-- OPTIONS OF BUILD]

Shapes are real, weights are random (seeded). `stage_seconds` is what the build itself records for the stage (rewriting
the graph for TensorRT-RTX, its parser and builder, and the plan on the disk); `wall_seconds` the whole command. The
builder is a process of its own, looked at ten times a second: processor seconds, anonymous memory, and resident memory,
which includes the pages of the weights that it maps. Linux only. Bar of issue 6: 1b in 25 s on an idle machine, so look
at `load` (the mean number of running processes a minute before the start).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from scripts.measure_export import SHAPES, disk_speed, randomise  # noqa: E402

_WORKER = "innerq_export.engine.worker"
_TICKS = os.sysconf("SC_CLK_TCK")


def build(model: Path, output: Path, options: list[str]) -> dict[str, float]:
    """Build an engine folder and return seconds and GB; raises CalledProcessError with what the build printed."""
    words = [sys.executable, "-m", "innerq_export.cli.main", "build", "--model", str(model), "--output", str(output)]
    words += ["--backend", "tensorrt-rtx", "--parity", "off", "--fresh", *options]
    start = time.monotonic()
    with (output.parent / "build.log").open("w+") as log:
        command = subprocess.Popen(words, stdout=log, stderr=log, cwd=ROOT)
        seen = watch(command)
        wall = time.monotonic() - start
        log.seek(0)
        if command.returncode:
            raise subprocess.CalledProcessError(command.returncode, words, log.read())
    stages = json.loads((output / ".stages.json").read_text())["stages"]
    plan = (output / "model.engine").stat().st_size / 1e9
    return {"stage_seconds": stages["tensorrt-rtx"]["seconds"], "wall_seconds": wall, **seen, "plan_GB": plan}


def watch(command: subprocess.Popen[bytes]) -> dict[str, float]:
    """Wait for the end of `command`; return what its builder took."""
    seen = {"processor_seconds": 0.0, "anonymous_GB": 0.0, "resident_GB": 0.0}
    while command.poll() is None:
        for builder in builders(command.pid):
            for name, value in looked_at(builder).items():
                seen[name] = max(seen[name], value)
        time.sleep(0.1)
    return seen


def builders(parent: int) -> Iterator[Path]:
    """Yield the folder in /proc of the builder that process `parent` has started."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for child in children:
            if _WORKER in Path(f"/proc/{child}/cmdline").read_text():
                yield Path(f"/proc/{child}")
    except OSError:
        return


def looked_at(process: Path) -> dict[str, float]:
    """Return what the kernel says of a process; nothing if it has just ended."""
    try:
        times = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
        lines = (line.split() for line in (process / "status").read_text().splitlines())
        kilobytes = {words[0]: int(words[1]) for words in lines if words[0] in ("RssAnon:", "VmHWM:")}
    except OSError:
        return {}
    names = {"anonymous_GB": "RssAnon:", "resident_GB": "VmHWM:"}
    gigabytes = {name: kilobytes.get(key, 0) * 1024 / 1e9 for name, key in names.items()}
    return {"processor_seconds": sum(map(int, times)) / _TICKS, **gigabytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--folder", type=Path, required=True, help="for checkpoint and engine: 1b needs 8 GB, 8b 52 GB")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint there for the next call")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("options", nargs="*", help="behind --: options of `innerq-export build`")
    chosen = parser.parse_args()
    from tests.graph.sparse import sparse_llama

    dtype, sizes = SHAPES[chosen.shape]
    model, output = chosen.folder / f"model-{chosen.shape}", chosen.folder / "engine"
    if not model.exists():
        randomise(sparse_llama(model, dtype, **sizes), dtype)
    found = {"shape": chosen.shape, "options": chosen.options, "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    figures = build(model, output, chosen.options) | {"disk_GB_per_s": disk_speed(chosen.folder)}
    shutil.rmtree(output)
    if not chosen.keep:
        shutil.rmtree(model)
    text = json.dumps(found | {name: round(value, 2) for name, value in figures.items()}, indent=2)
    print(text)
    if chosen.json:
        chosen.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
