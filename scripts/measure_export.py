"""Time and peak memory of the export to ONNX at full-size shapes, beside plain torch.onnx.export and optimum.

    python scripts/measure_export.py --shape 1b --folder /somewhere/large [--exporters ours torch optimum] [--json FILE]

Shapes are real, weights are zeros in a sparse file: exporters read and write as many bytes as with real ones. Every
exporter runs in a process of its own; peak memory is the largest resident set that the kernel counted for it, which
includes pages of mapped weights. Bars of issue 6: 1b 40 s and 1.5 GB, 8b 90 s and 3 GB.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
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


def measure(exporter: str, model: Path, output: Path) -> dict[str, object]:
    """Run one exporter in a child process; return seconds of wall and processor time, peak GB and GB written."""
    if exporter == "optimum" and importlib.util.find_spec("optimum") is None:
        return {"exporter": exporter, "skipped": "optimum is not installed"}
    output.mkdir(parents=True)
    start = time.monotonic()
    child = os.spawnv(
        os.P_NOWAIT, sys.executable, [sys.executable, __file__, "--child", exporter, str(model), str(output)]
    )
    _, status, usage = os.wait4(child, 0)
    own = [file for file in output.iterdir() if file.stat().st_nlink == 1]
    result = {
        "exporter": exporter,
        "exit": os.waitstatus_to_exitcode(status),
        "seconds": round(time.monotonic() - start, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_GB": round(usage.ru_maxrss / (1e6 if sys.platform != "darwin" else 1e9), 2),
        "written_GB": round(sum(file.stat().st_size for file in own) / 1e9, 3),
    }
    shutil.rmtree(output)
    return result


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        EXPORTERS[sys.argv[2]](Path(sys.argv[3]), Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument(
        "--folder", type=Path, required=True, help="where to put checkpoint and results: 8b needs 17 GB"
    )
    parser.add_argument("--exporters", nargs="+", choices=EXPORTERS, default=[*EXPORTERS])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.graph.sparse import sparse_llama

    dtype, sizes = SHAPES[options.shape]
    model = options.folder / f"model-{options.shape}"
    if not model.exists():
        sparse_llama(model, dtype, **sizes)
    results = [measure(name, model, options.folder / f"out-{name}") for name in options.exporters]
    shutil.rmtree(model)
    text = json.dumps({"shape": options.shape, "cores": os.cpu_count(), "results": results}, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
