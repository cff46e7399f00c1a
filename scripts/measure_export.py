"""Time and peak memory of the export to ONNX at full-size shapes, beside plain torch.onnx.export and optimum.

    python scripts/measure_export.py --shape 1b --folder /somewhere/large [--exporters ours torch]
        [--optimum-python E/bin/python] [--json FILE]

Shapes are real, weights are random (seeded; norms are 1). Every exporter runs in a process of its own under the
kernel's own account, which is what `/usr/bin/time -v` prints: wall and processor seconds, and the largest resident set,
which includes pages of mapped weights. Beside them: what the disk can write, and what `innerq-export plan` takes.
Optimum pins older versions of torch and transformers, so it is run by the interpreter that --optimum-python names, from
an environment of its own; `python -m venv E && E/bin/pip install optimum-onnx[onnxruntime]` makes one where that can be
had. Bars of issue 6: 1b 40 s and 1.5 GB beyond the mapped weights, 8b 90 s and 3 GB, plan 2 s.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA3 = {
    "vocab_size": 128256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rope_parameters": ROPE,
}
SMALL = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64}
LARGE = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "head_dim": 128}
SHAPES = {
    "1b": ("F16", LLAMA3 | SMALL | {"tie_word_embeddings": True}),
    "8b": ("BF16", LLAMA3 | LARGE | {"tie_word_embeddings": False}),
}


def export_ours(model: Path, output: Path) -> None:
    """Checkpoint -> rewritten model.onnx with weights by reference (1b) or streamed from bf16 (8b)."""
    from innerq_export.checkpoint import open_checkpoint
    from innerq_export.graph import export_graph
    from innerq_export.onnx_io import save_onnx
    from innerq_export.rewrite import rewrite
    from innerq_export.spec import CacheConfig

    graph = export_graph(open_checkpoint(str(model)), "float16")
    cache = CacheConfig()
    rewritten, _ = rewrite(graph, cache, "native")
    save_onnx(rewritten, output, graph=graph, cache=cache, lowering="native")


def export_torch(model: Path, output: Path) -> None:
    """The model loaded by transformers and handed to torch.onnx.export at opset 23, without a cache."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float16).eval()
    sizes = {0: torch.export.Dim("B"), 1: torch.export.Dim("S")}
    ids = torch.zeros(2, 7, dtype=torch.int64)
    arguments = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    shapes = {"input_ids": sizes, "attention_mask": sizes, "use_cache": None}
    with torch.no_grad():
        program = torch.onnx.export(loaded, kwargs=arguments, dynamic_shapes=shapes, dynamo=True, opset_version=23)
    assert program is not None
    program.save(output / "model.onnx", external_data=True)


def export_optimum(model: Path, output: Path) -> None:
    """Optimum's own exporter, text generation without past."""
    from optimum.exporters.onnx import main_export

    main_export(str(model), output, task="text-generation", dtype="fp16", do_validation=False)


EXPORTERS = {"ours": export_ours, "torch": export_torch, "optimum": export_optimum}


def randomise(model: Path, dtype: str) -> None:
    """Fill the holes of a sparse checkpoint with seeded normal weights of deviation 0.02; vectors become ones."""
    import torch

    kind = {"F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    generator, piece = torch.Generator().manual_seed(1), torch.empty(1 << 22)
    with (model / "model.safetensors").open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        for entry in header.values():
            begin, end = entry["data_offsets"]
            stream.seek(8 + size + begin)
            for start in range(begin, end, 2 * piece.numel()):
                part = piece[: (end - start) // 2]
                part.normal_(0, 0.02, generator=generator) if len(entry["shape"]) > 1 else part.fill_(1)
                stream.write(part.to(kind).view(torch.int16).numpy().data)


def measure(exporter: str, model: Path, output: Path, python: str = sys.executable) -> dict[str, object]:
    """Run one exporter in a child process; return seconds of wall and processor time, peak GB and GB written.

    Where it fails, `failed` is the last line that it printed.
    """
    output.mkdir(parents=True)
    start = time.monotonic()
    with (output.parent / f"{exporter}.log").open("w+") as log:
        words = [python, __file__, "--child", exporter, str(model), str(output)]
        child = subprocess.Popen(words, stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
        log.seek(0)
        last = (log.read().strip().splitlines() or ["nothing was printed"])[-1]
    own = [file for file in output.iterdir() if file.stat().st_nlink == 1]
    result: dict[str, object] = {
        "exporter": exporter,
        "exit": os.waitstatus_to_exitcode(status),
        "seconds": round(time.monotonic() - start, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_GB": round(usage.ru_maxrss / (1e6 / 1.024 if sys.platform != "darwin" else 1e9), 2),
        "written_GB": round(sum(file.stat().st_size for file in own) / 1e9, 3),
    }
    shutil.rmtree(output)
    return result if result["exit"] == 0 else result | {"failed": last}


def disk_speed(folder: Path) -> float:
    """Return the GB per second at which 4 GB are written to `folder` and reach the disk, as `dd conv=fsync` does."""
    piece, file = os.urandom(16 << 20), folder / "speed"
    start = time.monotonic()
    with file.open("wb") as stream:
        for _ in range(256):
            stream.write(piece)
        os.fsync(stream.fileno())
    seconds = time.monotonic() - start
    file.unlink()
    return round(256 * len(piece) / 1e9 / seconds, 2)


def plan_seconds(model: Path) -> float:
    """Return what `innerq-export plan` takes, start of Python included."""
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "innerq_export.cli.main", "plan", str(model)],
        check=False,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return round(time.monotonic() - start, 2)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        EXPORTERS[sys.argv[2]](Path(sys.argv[3]), Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument(
        "--folder", type=Path, required=True, help="for checkpoint and results: 1b needs 6 GB, 8b 33 GB (49 for torch)"
    )
    parser.add_argument("--exporters", nargs="+", choices=("ours", "torch"), default=["ours", "torch"])
    parser.add_argument("--optimum-python", help="interpreter of an environment that has optimum; adds that exporter")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.graph.sparse import sparse_llama

    dtype, sizes = SHAPES[options.shape]
    model = options.folder / f"model-{options.shape}"
    if not model.exists():
        randomise(sparse_llama(model, dtype, **sizes), dtype)
    pythons = dict.fromkeys(options.exporters, sys.executable)
    if options.optimum_python:
        pythons["optimum"] = options.optimum_python
    found = {"shape": options.shape, "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    found |= {"disk_GB_per_s": disk_speed(options.folder), "plan_seconds": plan_seconds(model)}
    results = [measure(name, model, options.folder / f"out-{name}", python) for name, python in pythons.items()]
    shutil.rmtree(model)
    text = json.dumps(found | {"results": results}, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
