"""Milliseconds a decode step of an engine folder over one card and over several, and what loading takes.

    python scripts/measure_tp.py --tp 1 --tp 2 [--shape llama-3.1-8b] [--folder DIR] [--output FILE]

A checkpoint of this shape with random weights is written to DIR (16 GB for 8B; default: a temporary folder), with the
manifest of an engine, which is all that backend torch reads. Every session is compiled; each step is greedy decoding of
`--batch` sequences behind prompts of `--prompt` tokens, timed by the host's clock: median of `--steps` steps.
Bytes are rank 0's, of weights and cache together, as torch counts them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from innerq_export.bench.decode_model import CONFIGS, random_model
from innerq_export.checkpoint import open_checkpoint
from innerq_export.engine.folder import write_manifest
from innerq_export.engine.manifest import Manifest
from innerq_export.runtime.torch_options import TorchOptions
from innerq_export.runtime.torch_session import TorchSession
from innerq_export.spec import preset


@dataclass(frozen=True)
class Row:
    """One session: `ms` a step, `tokens_per_second` of all sequences."""

    tp: int
    batch: int
    prompt: int
    load_seconds: float
    first_step_seconds: float
    ms: float
    tokens_per_second: float
    bytes_of_rank_0: int


def main() -> int:
    """Print a JSON object with a row for every --tp and --batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tp", type=int, action="append", required=True)
    parser.add_argument("--batch", type=int, action="append", help="default: 1 and 8")
    parser.add_argument("--shape", choices=sorted(CONFIGS), default="llama-3.1-8b")
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as place:
        engine = engine_of(Path(place), asked.shape, asked.device)
        rows = [
            row
            for tp in asked.tp
            for row in measured(engine, tp, asked.batch or [1, 8], asked.prompt, asked.steps, asked.device)
        ]
    where = {"torch": torch.__version__, "date": datetime.now(UTC).date().isoformat()}
    where["card"] = torch.cuda.get_device_name() if asked.device == "cuda" else "cpu"
    found = json.dumps(where | {"shape": asked.shape, "rows": [asdict(row) for row in rows]}, indent=1)
    print(found)
    if asked.output:
        asked.output.write_text(found + "\n")
    return 0


def engine_of(place: Path, shape: str, device: str) -> Path:
    """Write a checkpoint of random fp16 weights and an engine's manifest; return the engine folder."""
    model, _ = random_model(CONFIGS[shape], torch.float16, torch.device(device), compiled=False)
    model.save_pretrained(place / "checkpoint", max_shard_size="4GB")
    (place / "checkpoint" / "config.json").write_text(json.dumps(CONFIGS[shape]))
    del model
    if device == "cuda":
        torch.cuda.empty_cache()
    engine, checkpoint = place / "engine", open_checkpoint(str(place / "checkpoint"))
    engine.mkdir()
    manifest = Manifest(
        tool_version="0", created=datetime.now(UTC).isoformat(), source=str(place / "checkpoint"),
        source_digest=checkpoint.digest, notes=(), lowering="native", dtype="float16", model=checkpoint.shape,
        cache=preset("balanced"), max_batch=32, max_context=checkpoint.shape.max_positions, versions={}, backends={},
        files={}, ready=True,
    )  # fmt: skip
    write_manifest(engine, manifest)
    return engine


def measured(engine: Path, tp: int, batches: list[int], prompt: int, steps: int, device: str) -> list[Row]:
    """Open a session and time its steps for each batch."""
    start = time.perf_counter()
    session = TorchSession(engine, TorchOptions(tp=tp, compiled=device == "cuda", device=device))
    load_seconds = time.perf_counter() - start
    try:
        return [timed(session, tp, batch, prompt, steps, load_seconds) for batch in batches]
    finally:
        session.close()


def timed(session: TorchSession, tp: int, batch: int, prompt: int, steps: int, load_seconds: float) -> Row:
    """Prompt `batch` sequences and time greedy steps behind them."""
    session.reset(batch)
    random = np.random.default_rng(0)
    tokens = session.prefill(random.integers(0, session.manifest.model.vocab, (batch, prompt)).tolist()).argmax(-1)
    start = time.perf_counter()
    chosen = session.decode_greedy(tokens.tolist())
    first, took = time.perf_counter() - start, []
    for _ in range(steps):
        start = time.perf_counter()
        chosen = session.decode_greedy(chosen)
        took.append(time.perf_counter() - start)
    ms = 1e3 * statistics.median(took)
    held = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    return Row(tp, batch, prompt, load_seconds, first, ms, batch / ms * 1e3, held)


if __name__ == "__main__":
    sys.exit(main())
