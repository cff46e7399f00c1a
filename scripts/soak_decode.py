"""A long run of a page pool: sequences of random lengths join, fork and leave; what they said is recomputed alone.

    python scripts/soak_decode.py --steps 100000                       # on the card, decode steps in a CUDA graph
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --kernel-name-exclude kns=flash_fwd_splitkv_combine \
        python scripts/soak_decode.py --steps 80 --slots 6 --burst 4 --sample 1 --seed 4 --eager --host-growth 512
    python scripts/soak_decode.py --device cpu --steps 30 --slots 3    # without a card

Held at the end: every recomputed token is the best of its logits or within --tolerance of it; no kernel dropped a
token; free pages hold the poison they were given; all pages are back; memory has stopped growing (the card's from a
tenth of the steps on, the host's by --host-growth MB from a half on; in a short run prompts of lengths not seen before
still load cuBLAS's kernels, so give it more there).

Why a tolerance: on a card, other rows in the batch mean other roundings (GEMM, split of the attention), and a key near
the edge of a 3-bit code then falls the other way, which moves logits (deviation 1) by up to half. docs/transformers.md
shows the same without any pool. With --bits 8 a code is so fine that --tolerance 0.25 will do. Two sequences that read
each other's page (--fault) are off by 4 and more.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from innerq_export.integrations.library import Library
from innerq_export.integrations.pages import PoolFullError
from innerq_export.integrations.pool import PagePool, Sequence
from innerq_export.integrations.transformers import InnerQCache
from innerq_export.spec import CacheConfig, blocks_of, preset

POISON = 0x7E007E00  # two NaN in fp16: a scale that is read from a free page would be heard


@dataclass(frozen=True)
class Options:
    """`sample`: one of so many sequences is recomputed, at most `samples`; `fault`: break a page table on purpose.

    Sequences join and leave between bursts of 1 to `burst` steps; after `seconds` no further burst is begun. `bits`, if
    not 0, replaces the preset's bits of keys and values.
    """

    steps: int = 100_000
    slots: int = 16
    pages: int = 110
    max_tokens: int = 2048
    prompt: int = 400
    sample: int = 12
    samples: int = 256
    preset: str = "balanced"
    bits: int = 0
    tolerance: float = 1.0
    host_growth: int = 64
    burst: int = 15
    seconds: float = 600.0
    seed: int = 0
    eager: bool = False
    fault: bool = False
    device: str = "cuda"
    kernels: Library | str = "auto"

    @property
    def cache(self) -> CacheConfig:
        """The configuration of the cache."""
        config = preset(self.preset)
        return config.replace(key_bits=self.bits, value_bits=self.bits) if self.bits else config


@dataclass
class Sample:
    """Tokens [length + 1] of a sequence that left, and the chunks in which its first tokens were fed."""

    tokens_T: Tensor
    chunks: list[int]

    @property
    def chosen(self) -> int:
        """How many of the tokens the model chose."""
        return len(self.tokens_T) - sum(self.chunks)


@dataclass
class Running:
    """A sequence, the chunks it was fed in, the length at which it leaves."""

    sequence: Sequence
    chunks: list[int]
    until: int


@dataclass
class Counts:
    """What happened."""

    joined: int = 0
    forked: int = 0
    refused: int = 0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    dropped: bool = False
    samples: list[Sample] = field(default_factory=list)


def tiny_llama(device: str, seed: int) -> torch.nn.Module:
    """Return two layers of random weights with peaked attention, fp16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    more: dict[str, Any] = sizes | {"vocab_size": 264, "num_key_value_heads": 2, "head_dim": 64}
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**more))
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            gain = 1.6 if "q_proj" in name or "k_proj" in name else 1.0
            torch.nn.init.normal_(weight, std=0.25 if "embed" in name else gain * weight.shape[1] ** -0.5)
    return model.half().to(device).eval().requires_grad_(False)


class Captured:
    """A function of no arguments as a CUDA graph; as it is where there is no card or `eager`."""

    def __init__(self, function: Callable[[], None], eager: bool):
        self.call: Callable[[], None] = function
        if not eager:
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(3):
                    function()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                function()
            self.call = graph.replay


class Soak:
    """The running batch: `text_BT` holds every row's tokens, the next one included."""

    def __init__(self, model: Any, options: Options):
        self.model, self.options, self.random = model, options, random.Random(options.seed)
        self.eager = options.eager or options.device == "cpu"
        self.pool = PagePool(
            model.config, options.cache, slots=options.slots, pages=options.pages, max_tokens=options.max_tokens,
            device=options.device, kernels=options.kernels,
        )  # fmt: skip
        for layer in self.pool.layers:
            layer.blocks.fill_(POISON)
        self.text_BT = torch.zeros(options.slots, options.max_tokens + 1, dtype=torch.long, device=options.device)
        self.running: list[Running] = []
        self.counts, self.broken = Counts(), False
        view = self.pool.decode([])
        self.decode = Captured(lambda: self._decode(view), self.eager)
        self.prefix = self._prefix()

    def run(self) -> Iterator[int]:
        """Take the steps in bursts; yields their number so far after each."""
        start, counts = time.perf_counter(), self.counts
        while counts.steps < self.options.steps and time.perf_counter() < start + self.options.seconds:
            self._leave()
            self._join()
            burst = min(self.random.randint(1, self.options.burst), self.options.steps - counts.steps)
            burst = min([burst, *(one.until - one.sequence.length for one in self.running)])
            self.pool.decode([one.sequence for one in self.running], burst)
            if self.options.fault and not self.broken and counts.steps >= self.options.steps // 4:
                self._exchange_pages()
            for _ in range(burst):
                self.decode.call()
            counts.steps += burst
            counts.tokens += burst * len(self.running)
            yield counts.steps
        self.counts.dropped = bool(self.pool.flags)
        self.counts.seconds = time.perf_counter() - start
        for one in self.running:
            self._sample(one)
        for one in [*self.running, self.prefix]:
            self._give_back(one.sequence)

    def _exchange_pages(self) -> None:
        """The fault: two sequences that have blocks read each other's first page."""
        rows = [one.sequence.slot for one in self.running if blocks_of(self.pool.config, one.sequence.length)][:2]
        if len(rows) == 2:
            self.pool.table_BP[rows, 0] = self.pool.table_BP[rows[::-1], 0]
            self.broken = True

    def _decode(self, view: Any) -> None:
        length_B1 = self.pool.length_B[:, None]
        ids_B1 = self.text_BT.gather(1, length_B1.long())
        logits = self.model(ids_B1, position_ids=length_B1.long(), past_key_values=view).logits
        at_B1 = self.pool.length_B[:, None].long()
        new_B1 = torch.where(self.pool.new_B[:, None] > 0, logits[:, -1].argmax(-1, True), ids_B1)
        self.text_BT.scatter_(1, at_B1, new_B1)

    def _join(self) -> None:
        """Let one sequence in where there is room; now and then the shared prefix is replaced by another."""
        choose = self.random
        if len(self.running) >= self.options.slots - 2:
            return
        forks, count = choose.random() < 0.3, choose.randint(1, self.options.prompt)
        past = self.prefix.sequence.length if forks else 0
        until = min(self.options.max_tokens, past + count + int(10 ** choose.uniform(1.3, 3.3)))
        try:
            if choose.random() < 0.02:
                replaced, self.prefix = self.prefix, self._prefix()
                self._give_back(replaced.sequence)
                return
            sequence = self.pool.fork(self.prefix.sequence, until) if forks else self.pool.join(until)
        except PoolFullError:
            self.counts.refused += 1
            return
        self.counts.joined += 1
        self.counts.forked += forks
        self.running.append(
            self._prompted(sequence, self.prefix.chunks if forks else [], min(count, until - past - 1), until)
        )

    def _prefix(self) -> Running:
        """Return a sequence that rests: others begin as its forks."""
        count = self.random.randint(1, self.options.prompt)
        return self._prompted(self.pool.join(count), [], count, count)

    def _prompted(self, sequence: Sequence, chunks: list[int], count: int, until: int) -> Running:
        """Feed a random prompt of `count` tokens behind what the sequence holds."""
        row, past = self.text_BT[sequence.slot], sequence.length
        if past:
            row[:past] = self.text_BT[self.prefix.sequence.slot, :past]
        row[past : past + count] = torch.randint(0, 256, (count,), device=row.device)
        position_1S = torch.arange(past, past + count, device=row.device)[None]
        cache = self.pool.extend(sequence, count)
        logits = self.model(row[None, past : past + count], position_ids=position_1S, past_key_values=cache).logits
        row[past + count] = logits[0, -1].argmax()
        return Running(sequence, [*chunks, count], until)

    def _leave(self) -> None:
        for one in [one for one in self.running if one.sequence.length >= one.until]:
            self.running.remove(one)
            self._sample(one)
            self._give_back(one.sequence)

    def _sample(self, one: Running) -> None:
        if self.random.randrange(self.options.sample) == 0 and len(self.counts.samples) < self.options.samples:
            tokens_T = self.text_BT[one.sequence.slot, : one.sequence.length + 1].to("cpu", copy=True)
            self.counts.samples.append(Sample(tokens_T, one.chunks))

    def _give_back(self, sequence: Sequence) -> None:
        if freed := self.pool.leave(sequence):
            for layer in self.pool.layers:
                layer.blocks[freed] = POISON


class Check:
    """Feeds recorded tokens, `rows` sequences at a time, to a cache of their own without pages."""

    def __init__(self, model: Any, options: Options, device: str, kernels: Library | str, rows: int, eager: bool):
        self.model, self.rows, self.device = model, rows, device
        self.cache = InnerQCache(model.config, options.cache, max_tokens=2 * options.max_tokens, kernels=kernels)
        self.cache.early_initialization(rows, 2, 64, model.dtype, torch.device(device))
        self.text_BT = torch.zeros(rows, options.max_tokens + 1, dtype=torch.long, device=device)
        self.end_B, self.new_B = (torch.zeros(rows, dtype=torch.int32, device=device) for _ in range(2))
        self.worst_B, self.missed_B = (torch.zeros(rows, device=device) for _ in range(2))
        self.step = Captured(self._step, eager)

    def distances(self, samples: list[Sample]) -> dict[str, float]:
        """Return how many recorded tokens were not the best, and by how much of a logit the worst of them was not."""
        for total_B in (self.worst_B, self.missed_B):
            total_B.zero_()
        for first in range(0, len(samples), self.rows):
            self._group(samples[first : first + self.rows])
        return {
            "tokens": sum(sample.chosen for sample in samples),
            "not_the_best": int(self.missed_B.sum()),
            "worst_gap": float(self.worst_B.max()),
        }

    def _group(self, samples: list[Sample]) -> None:
        self.cache.reset()
        self.text_BT.zero_()
        self.end_B.zero_()
        for row, sample in enumerate(samples):
            self.text_BT[row, : len(sample.tokens_T)] = sample.tokens_T.to(self.device)
            self.end_B[row] = len(sample.tokens_T) - 1
        for nth in range(max(len(sample.chunks) for sample in samples)):
            self._chunk([sample.chunks for sample in samples], nth)
        for _ in range(max(sample.chosen for sample in samples) - 1):
            self.step.call()

    def _chunk(self, chunks: list[list[int]], nth: int) -> None:
        """Feed the nth chunk of every row; only what follows a row's last chunk was chosen by the model."""
        rows = chunks + [[]] * (self.rows - len(chunks))
        counts = [row[nth] if nth < len(row) else 0 for row in rows]
        new_B = torch.tensor(counts, dtype=torch.int32, device=self.device)
        at_BS = self.cache.length_B[:, None].long() + torch.arange(max(counts), device=self.device)
        at_BS = at_BS.clamp(max=self.text_BT.shape[1] - 1)
        with self.cache.ragged(new_B):
            logits = self.model(self.text_BT.gather(1, at_BS), position_ids=at_BS, past_key_values=self.cache).logits
        last_B = torch.tensor([nth == len(row) - 1 for row in rows], device=self.device)
        self._compare(logits[torch.arange(self.rows, device=self.device), (new_B.long() - 1).clamp(min=0)], last_B)

    def _step(self) -> None:
        at_B1 = self.cache.length_B[:, None].long()
        self.new_B.copy_(self.cache.length_B < self.end_B)
        with self.cache.ragged(self.new_B):
            logits = self.model(self.text_BT.gather(1, at_B1), position_ids=at_B1, past_key_values=self.cache).logits
        self._compare(logits[:, -1], self.new_B > 0)

    def _compare(self, logits_BV: Tensor, chosen_B: Tensor) -> None:
        said_B1 = self.text_BT.gather(1, self.cache.length_B[:, None].long())
        gap_B = (logits_BV.amax(-1) - logits_BV.gather(1, said_B1)[:, 0]).float()
        gap_B = torch.where(chosen_B, gap_B, 0.0)
        self.worst_B.copy_(torch.maximum(self.worst_B, gap_B))
        self.missed_B += gap_B > 0


def memory(device: str) -> tuple[int, int]:
    """Return the bytes that torch holds on the card, and those of this process on the host."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return (torch.cuda.memory_allocated() if device == "cuda" else 0), resident


@torch.no_grad()
def soak(options: Options) -> dict[str, object]:
    """Run, recompute, and return what was found; `failures` says in words what must not be.

    One thread: the reference's tensors are so small that more would only wait for each other.
    """
    torch.set_num_threads(1)
    model = tiny_llama(options.device, options.seed)
    run = Soak(model, options)
    held = [memory(options.device)]
    for steps in run.run():
        if steps >= len(held) * options.steps / 10:
            held.append(memory(options.device))
    counts, free = run.counts, run.pool.pages
    poisoned = all(bool((layer.blocks == POISON).all()) for layer in run.pool.layers)
    start = time.perf_counter()
    check = Check(model, options, options.device, options.kernels, options.slots, run.eager)
    recomputed = {"alone": check.distances(counts.samples)}
    chosen = [sample for sample in counts.samples if sample.chosen >= 100] or counts.samples
    if short := sorted(chosen, key=lambda sample: len(sample.tokens_T))[:4]:
        recomputed["reference"] = Check(model.cpu(), options, "cpu", "auto", len(short), True).distances(short)
    names = ("steps", "tokens", "joined", "forked", "refused", "seconds")
    found = {name: getattr(counts, name) for name in names} | {
        "recomputed_sequences": len(counts.samples),
        "recomputed": recomputed,
        "seconds_of_checks": time.perf_counter() - start,
        "card_bytes": [card for card, _ in held],
        "host_bytes": [host for _, host in held],
    }
    wrong = {
        "not all steps were taken": counts.steps < options.steps,
        "a recomputed token was not the best": any(
            part["worst_gap"] > options.tolerance for part in recomputed.values()
        ),
        "a kernel dropped tokens": counts.dropped,
        "nothing was recomputed": not counts.samples,
        "a free page was written": not poisoned,
        "pages did not come back": free.free != free.total,
        "memory of the card grew": held[-1][0] > held[min(1, len(held) - 1)][0],
        "memory of the host grew": held[-1][1] > held[len(held) // 2][1] + (options.host_growth << 20),
    }
    return found | {"failures": [name for name, holds in wrong.items() if holds]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in dataclasses.fields(Options):
        name, default = "--" + option.name.replace("_", "-"), option.default
        if isinstance(default, bool):
            parser.add_argument(name, action="store_true")
        elif option.name != "kernels":
            parser.add_argument(name, type=type(default), default=default)
    parser.add_argument("--output", type=Path)
    given = vars(parser.parse_args())
    output = given.pop("output")
    found = soak(Options(**given))
    print(json.dumps(found, indent=1))
    if output:
        output.write_text(json.dumps(found, indent=1) + "\n")
    return bool(found["failures"])


if __name__ == "__main__":
    sys.exit(main())
