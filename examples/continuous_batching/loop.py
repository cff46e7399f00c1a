"""Continuous batching in one loop: requests join a running batch when there is room, and leave when they are done.

    python examples/continuous_batching/loop.py --model llama --requests 12 --slots 4

An example, not a server: it shows what `innerq_export.integrations.pool` is for. Requests share the pages of a common
prefix (a system prompt); a request that does not fit waits, and nobody who runs is ever thrown out.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from innerq_export.checkpoint import open_checkpoint
from innerq_export.errors import ConfigError
from innerq_export.integrations.pages import PoolFullError
from innerq_export.integrations.pool import PagePool, Sequence


@dataclass(eq=False)
class Request:
    """A prompt behind the common prefix, and what was said to it."""

    prompt: list[int]
    max_new_tokens: int
    said: list[int] = field(default_factory=list)
    sequence: Sequence | None = None


@dataclass
class Counts:
    """Decode steps, and in how many of them a request waited for room."""

    steps: int = 0
    waited: int = 0


class Batch:
    """The running batch of a model: `prefix` is fed once and shared."""

    def __init__(self, model: torch.nn.Module, pool: PagePool, prefix: list[int], stop: int | None):
        self.model, self.pool, self.stop = model, pool, stop
        self.running: list[Request] = []
        self.prefix = pool.join(len(prefix))
        self._feed(self.prefix, prefix)
        self.ids_B1 = torch.zeros(len(pool.length_B), 1, dtype=torch.long, device=pool.length_B.device)

    def admit(self, request: Request) -> bool:
        """Start a request and say its first token; False, and nothing changed, if there is no room for all of it."""
        tokens = self.prefix.length + len(request.prompt) + request.max_new_tokens
        if tokens > self.pool.max_tokens or self.pool.pages_for(tokens) > self.pool.pages.total:
            raise ConfigError(f"a request of {tokens} tokens can never fit", fix="a larger pool, or a shorter request")
        try:
            request.sequence = self.pool.fork(self.prefix, tokens)
        except PoolFullError:
            return False
        self.running.append(request)
        self._say(request, self._feed(request.sequence, request.prompt))
        return True

    @torch.no_grad()
    def step(self) -> None:
        """Say one more token of every running request."""
        for request in self.running:
            self.ids_B1[request.sequence.slot] = request.said[-1]
        cache = self.pool.decode([request.sequence for request in self.running])
        position_B1 = self.pool.length_B[:, None].long()
        logits_B1V = self.model(self.ids_B1, position_ids=position_B1, past_key_values=cache).logits
        best_B = logits_B1V[:, 0].argmax(-1).tolist()
        for request in list(self.running):
            self._say(request, best_B[request.sequence.slot])

    @torch.no_grad()
    def _feed(self, sequence: Sequence, ids: list[int]) -> int:
        """Append a prompt to a sequence and return the token that follows."""
        ids_1S = torch.tensor([ids], device=self.pool.length_B.device)
        position_1S = torch.arange(sequence.length, sequence.length + len(ids), device=ids_1S.device)[None]
        cache = self.pool.extend(sequence, len(ids))
        return int(self.model(ids_1S, position_ids=position_1S, past_key_values=cache).logits[0, -1].argmax())

    def _say(self, request: Request, token: int) -> None:
        request.said.append(token)
        if token == self.stop or len(request.said) == request.max_new_tokens:
            self.running.remove(request)
            self.pool.leave(request.sequence)


def serve(batch: Batch, requests: Iterable[Request], on_step: Callable[[Batch], None] = lambda batch: None) -> Counts:
    """Run until every request is answered, in the order of arrival as far as there is room."""
    waiting, counts = deque(requests), Counts()
    while waiting or batch.running:
        while waiting and batch.admit(waiting[0]):
            waiting.popleft()
        counts.waited += bool(waiting)
        if batch.running:
            batch.step()
            counts.steps += 1
        on_step(batch)
    return counts


def main() -> None:
    """Answer made-up requests and say how long it took."""
    from transformers import AutoModelForCausalLM

    arguments = _arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    folder = open_checkpoint(arguments.model).folder
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    pool = PagePool(
        model.config, arguments.cache, slots=arguments.slots + 1, pages=arguments.pages, max_tokens=1024, dtype=dtype,
        device=device,
    )  # fmt: skip
    random = torch.Generator().manual_seed(0)
    requests = [Request(_text(random, 5, 200), arguments.max_new_tokens) for _ in range(arguments.requests)]
    batch = Batch(model, pool, _text(random, 400, 401), stop=None)
    start = time.perf_counter()
    counts = serve(batch, requests)
    seconds, tokens = time.perf_counter() - start, sum(len(request.said) for request in requests)
    print(f"{len(requests)} requests, {tokens} tokens in {seconds:.1f} s, {counts.steps} decode steps", end="; ")
    print(f"in {counts.waited} of them somebody waited; {pool.pages.free} of {pool.pages.total} pages are free")


def _text(random: torch.Generator, at_least: int, below: int) -> list[int]:
    """Return random bytes as token ids: stands for a tokenised prompt."""
    count = int(torch.randint(at_least, below, (1,), generator=random))
    return torch.randint(0, 256, (count,), generator=random).tolist()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama", help="'llama' (the demo model), a folder or a hub id")
    parser.add_argument("--cache", default="balanced", help="a preset of the cache")
    parser.add_argument("--requests", type=int, default=12)
    parser.add_argument("--slots", type=int, default=4, help="requests that run at the same time")
    parser.add_argument("--pages", type=int, default=24, help="pages of 4 blocks of 32 tokens")
    parser.add_argument("--max-new-tokens", type=int, default=40)
    return parser.parse_args()


if __name__ == "__main__":
    main()
