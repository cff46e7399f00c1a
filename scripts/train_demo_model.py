"""Train the demo model or the larger evaluation model: byte-level Llamas that write prose and recall from context.

    python scripts/fetch_text.py TEXT
    python scripts/train_demo_model.py TEXT OUT --seconds 45 --compile                # 3 M parameters, context 2,048
    python scripts/train_demo_model.py TEXT OUT --seconds 150 --compile --size eval    # 30 M parameters, context 8,192

Writes OUT as `save_pretrained` would (fp16) and OUT/training.json: losses, and what the saved weights reach on held-out
text. Some windows are prose as it stands, the others carry the recall task (innerq_export/eval/recall.py).
Learning rate and context (short at first) follow the clock, so training ends when it should.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from innerq_export.checkpoint.demo import CONFIG, write_tokenizer
from innerq_export.eval.recall import LINE_BYTES, draw_facts, needle_prompt, scatter_facts, scatter_pairs

LARGER = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}
PROMPTS = (
    "And it came to pass in those days, that",
    "It was a truth which Elizabeth",
    "\n[zanubo: kitare]\n[mopila: dusega]\n[zanubo:",
)


VALUE = slice(10, 16)
"""Where a line of the recall task has its value."""
NEEDLE_WEIGHT, PAIR_WEIGHT = 32, 4
"""What a byte of an answer counts in the loss, where a window has one answer and where each fact is asked for once."""

Window = tuple[np.ndarray, np.ndarray]
"""Bytes uint8 [S] and what each of them counts in the loss, uint8 [S]."""
Draw = Callable[[np.ndarray, int, np.random.Generator], Window]


def mixed_window(text: np.ndarray, context: int, generator: np.random.Generator) -> Window:
    """Return `context` bytes: prose (2/5), one fact asked for at the end (3/20), a few facts (1/10), or many (7/20)."""
    row = excerpt(text, context, generator)
    kind, cells = generator.random(), context // LINE_BYTES
    if kind < 0.15:
        row, _ = needle_window(row, generator)
    elif kind < 0.25:
        lines = int(generator.integers(2, max(3, cells // 8)))
        scatter_facts(row, draw_facts(max(1, lines // 2), generator), lines, generator)
    elif kind < 0.6:
        facts = draw_facts(int(generator.integers(2, max(3, cells // 4))), generator)
        scatter_facts(row, facts, int(0.8 * cells), generator)
    return row, np.ones(context, np.uint8)


def recall_window(
    text: np.ndarray, context: int, generator: np.random.Generator, *, prose: float, needle: float, pairs: float
) -> Window:
    """Return `context` bytes: prose, one fact asked for at the end, facts told and asked for once, or facts repeated.

    The shares of the first three kinds are given. The last, few facts or many stated again and again, is the densest
    signal: recall is learned from it first. Prose around a lone fact counts nothing, so that it is not read too often.
    """
    row, weight = excerpt(text, context, generator), np.ones(context, np.uint8)
    kind, cells = generator.random(), context // LINE_BYTES
    if kind < prose:
        return row, weight
    if kind < prose + needle:
        row, _ = needle_window(row, generator)
        weight[:] = 0
        weight[context + 1 - LINE_BYTES :][VALUE] = NEEDLE_WEIGHT
    elif kind < prose + needle + pairs:
        facts = draw_facts(int(generator.integers(1, cells * 9 // 20 + 1)), generator)
        _, asked = scatter_pairs(row, facts, bool(generator.random() < 0.5), generator)
        weight[asked[:, None] + np.r_[VALUE]] = PAIR_WEIGHT
    else:
        facts = draw_facts(int(np.exp(generator.uniform(np.log(2), np.log(max(3, cells / 4))))), generator)
        scatter_facts(row, facts, int(0.8 * cells), generator)
    return row, weight


def needle_window(row: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, int]:
    """Return as many bytes as `row` has: its text, in it one fact that is asked for at the end; and where it stands."""
    (fact,), depth = draw_facts(1, generator), float(np.clip(generator.uniform(-0.1, 1.1), 0, 1))
    prompt = needle_prompt(row.tobytes(), len(row) - len(fact.answer), depth, fact)
    return np.frombuffer(prompt + fact.answer, np.uint8), prompt.index(fact.line)


def excerpt(text: np.ndarray, length: int, generator: np.random.Generator) -> np.ndarray:
    """Return `length` bytes from a random place of `text`, a copy."""
    start = generator.integers(len(text) - length + 1)
    return text[start : start + length].copy()


@dataclass(frozen=True)
class Phase:
    """From `start` on (0 to 1 of the time): windows of this share of the context, so many tokens a step."""

    start: float
    length: float
    draw: Draw
    step_tokens: int


@dataclass(frozen=True)
class Size:
    """What is trained and how: peak learning rate, decay of the weights, phases.

    The decay is more than the usual 0.1, because the text is read ten times and more (arXiv 2509.14786 finds 30 times
    as much best); at ten times as much, the demo model learned prose better but no recall.
    """

    config: dict[str, Any]
    peak: float
    decay: float
    phases: tuple[Phase, ...]

    @property
    def context(self) -> int:
        return self.config["max_position_embeddings"]


FIRST = partial(recall_window, prose=0.25, needle=0.1, pairs=0.0)
THEN = partial(recall_window, prose=0.25, needle=0.2, pairs=0.3)
EVAL = Size(CONFIG | LARGER, 1e-3, 0.5, (Phase(0, 1 / 4, FIRST, 1 << 16), Phase(0.3, 1, THEN, 1 << 15)))
DEEPER: dict[str, Any] = {"num_hidden_layers": 12, "intermediate_size": 1408}
DEEPER |= {"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}}
SIZES = {
    "demo": Size(CONFIG, 3e-3, 0.3, (Phase(0, 1 / 4, mixed_window, 1 << 16), Phase(0.5, 1, mixed_window, 1 << 16))),
    "eval": EVAL,
    "eval-faster-rate": replace(EVAL, peak=2e-3),
    "eval-deeper": replace(EVAL, config=EVAL.config | DEEPER),
}


class Batches(IterableDataset):
    """Endless batches of a phase: ids int64 [B, length + 1], rows of `<bos>` and a window, and the windows' weights."""

    def __init__(self, text: np.ndarray, phase: Phase, context: int, seed: int):
        self.text, self.draw, self.seed = text, phase.draw, seed
        self.length = round(phase.length * context)
        self.rows = max(1, phase.step_tokens // self.length)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = get_worker_info()
        generator = np.random.default_rng([self.seed, worker.id if worker else 0])
        while True:
            windows = [self.draw(self.text, self.length, generator) for _ in range(self.rows)]
            rows, weights = (np.stack(parts) for parts in zip(*windows, strict=True))
            yield with_bos(rows), torch.from_numpy(weights)


def with_bos(rows_BS: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return uint8 rows as token ids int64 [B, S + 1], each behind `<bos>`."""
    padded = np.pad(rows_BS.astype(np.int64), ((0, 0), (1, 0)), constant_values=CONFIG["bos_token_id"])
    return torch.from_numpy(padded).to(device)


def new_model(size: Size, seed: int) -> LlamaForCausalLM:
    """Return the model in float32 with random weights."""
    torch.manual_seed(seed)
    known = {name: value for name, value in size.config.items() if name not in {"architectures", "model_type", "dtype"}}
    return LlamaForCausalLM(LlamaConfig(**known))


def train(
    model: LlamaForCausalLM, text: np.ndarray, held_out: np.ndarray, size: Size, seconds: float, seed: int
) -> dict[str, Any]:
    """Train for `seconds`; return steps, tokens, and losses (nats, of a batch and of held-out text) along the way."""
    device = model.device
    optimizer = adamw(model, size)
    unseen_BS = with_bos(spread(held_out, size), device)
    streams = [stream(text, phase, size.context, seed, device) for phase in size.phases]
    for batches in streams:
        loss_of(model, *next(batches)).backward()  # compiles; outside the time limit
    optimizer.zero_grad()
    began, steps, tokens = time.monotonic(), 0, 0
    losses: list[list[float]] = []
    waiting: torch.Tensor | None = None
    while (spent := (time.monotonic() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = size.peak * min(1.0, spent / 0.03) * 0.5 * (1 + math.cos(math.pi * spent))
        ids_BS, weight_BS = next(streams[sum(phase.start <= spent for phase in size.phases) - 1])
        loss = loss_of(model, ids_BS, weight_BS)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps, tokens = steps + 1, tokens + ids_BS.numel()
        last = math.nan if waiting is None else waiting.item()  # the step before: the card stays busy, the clock true
        if steps % 250 == 2:
            unseen = loss_of(model, unseen_BS).item()  # shaped as a training batch: what is compiled serves
            losses.append([round(spent * seconds, 1), steps, round(last, 4), round(unseen, 4)])
            print(*losses[-1], flush=True)
        waiting = loss.detach()
    return {"steps": steps, "tokens": tokens, "losses_second_step_batch_heldout": losses}


def spread(text: np.ndarray, size: Size) -> np.ndarray:
    """Return one step's rows [B, context] from all over `text`."""
    rows = text[: len(text) // size.context * size.context].reshape(-1, size.context)
    wanted = max(1, size.phases[-1].step_tokens // size.context)
    return rows[:: max(1, len(rows) // wanted)][:wanted]


def adamw(model: LlamaForCausalLM, size: Size) -> torch.optim.Optimizer:
    """Return AdamW that decays matrices only."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    gains = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": size.decay}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=size.peak, betas=(0.9, 0.95), fused=model.device.type == "cuda")


def stream(
    text: np.ndarray, phase: Phase, context: int, seed: int, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    workers = 6 if device.type == "cuda" else 0
    batches = Batches(text, phase, context, seed)
    loader = DataLoader(batches, batch_size=None, num_workers=workers, pin_memory=workers > 0)
    return (tuple(part.to(device, non_blocking=True) for part in batch) for batch in loader)


def loss_of(model: LlamaForCausalLM, ids_BS: torch.Tensor, weight_BS: torch.Tensor | None = None) -> torch.Tensor:
    """Return the cross-entropy of each next byte, times what it counts, in nats: the mean."""
    mixed = ids_BS.device.type == "cuda" and model.dtype == torch.float32
    with torch.autocast("cuda", torch.bfloat16) if mixed else nullcontext():
        logits_BSV = model(input_ids=ids_BS[:, :-1], use_cache=False).logits
    loss_N = cross_entropy(logits_BSV.float().flatten(0, 1), ids_BS[:, 1:].flatten(), reduction="none")
    return loss_N.mean() if weight_BS is None else (loss_N * weight_BS.flatten()).mean()


def save(model: LlamaForCausalLM, config: dict[str, Any], folder: Path) -> None:
    """Write config, fp16 weights (the tied head left out) and tokenizer."""
    from safetensors.torch import save_file

    weights = {name: value.detach().half().cpu().contiguous() for name, value in model.state_dict().items()}
    weights.pop("lm_head.weight")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder)


@torch.inference_mode()
def measure(folder: Path, text: bytes, context: int, device: str) -> dict[str, Any]:
    """Return what the saved model reaches: bits per held-out byte, recall by depth (exact, greedy), samples."""
    dtype = torch.float16 if device == "cuda" else torch.float32
    model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=dtype)
    model.to(device).eval()
    unseen = np.frombuffer(text, np.uint8)
    rows = unseen[: len(text) // context * context].reshape(-1, 1, context)[:200]
    bits = sum(loss_of(model, with_bos(row, device)).item() for row in rows) / len(rows) / math.log(2)
    recall = {str(depth): recall_at(model, text, context, depth, device) for depth in (0.0, 0.25, 0.5, 0.75, 1.0)}
    samples = [sample(model, prompt, device) for prompt in PROMPTS]
    return {"held_out_bits_per_byte": round(bits, 4), "recall_by_depth": recall, "samples": samples}


def recall_at(model: LlamaForCausalLM, text: bytes, context: int, depth: float, device: str) -> float:
    """Return the share of 64 needles whose every answer byte is the likeliest."""
    generator = np.random.default_rng([7, round(100 * depth)])
    hits = 0
    for fact in draw_facts(64, generator):
        start = int(generator.integers(len(text) - context))
        room = context - 1 - len(fact.answer)
        prompt = needle_prompt(text[start : start + context], room, depth, fact) + fact.answer
        ids_1S = with_bos(np.frombuffer(prompt, np.uint8)[None], device)
        likeliest = model(input_ids=ids_1S).logits[0, -len(fact.answer) - 1 : -1].argmax(-1)
        hits += bytes(likeliest.tolist()) == fact.answer if int(likeliest.max()) < 256 else 0
    return hits / 64


def sample(model: Any, prompt: str, device: str) -> str:
    ids_1S = with_bos(np.frombuffer(prompt.encode(), np.uint8)[None], device)
    out = model.generate(ids_1S, max_new_tokens=120, do_sample=False, pad_token_id=CONFIG["pad_token_id"])
    return bytes(token for token in out[0].tolist() if token < 256).decode(errors="replace")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="folder that scripts/fetch_text.py wrote")
    parser.add_argument("output", type=Path, help="checkpoint folder to write")
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--seconds", type=float, default=45.0, help="of training, without start and measurement")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="compile the decoder layers first (about 30 s)")
    return parser.parse_args()


def main() -> None:
    args, device = arguments(), "cuda" if torch.cuda.is_available() else "cpu"
    size = SIZES[args.size]
    learned, held_out = (
        lzma.decompress((args.text / name).read_bytes()) for name in ("train.txt.xz", "heldout.txt.xz")
    )
    model: Any = new_model(size, args.seed)
    model.to(device)
    if args.compile:
        torch._dynamo.config.recompile_limit = 64
        for layer in model.model.layers:
            layer.compile(dynamic=False)
    record = {
        "size": args.size,
        "seed": args.seed,
        "seconds": args.seconds,
        "decay": size.decay,
        "compiled": args.compile,
    }
    record |= {"parameters": sum(parameter.numel() for parameter in model.parameters()), "torch": torch.__version__}
    record |= {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    seen, unseen = (np.frombuffer(text, np.uint8) for text in (learned, held_out))
    record |= train(model, seen, unseen, size, args.seconds, args.seed)
    save(model, size.config, args.output)
    record |= measure(args.output, held_out, size.context, device)
    record["weights_sha256"] = hashlib.sha256((args.output / "model.safetensors").read_bytes()).hexdigest()
    (args.output / "training.json").write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    print(json.dumps({name: value for name, value in record.items() if "losses" not in name}, indent=1))


if __name__ == "__main__":
    main()
