"""The other processes of a tensor-parallel session: each holds its heads and weights and does what rank 0 does.

Sums over ranks are torch.distributed's: NCCL on cards, gloo on the CPU. What to do next comes through a pipe; the same
pipe says that a rank has failed, which nothing else would: a captured sum waits for its ranks for ever.
"""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from innerq_export.artifacts import Checkpoint
from innerq_export.errors import ConfigError, EnvironmentMismatchError, UserError
from innerq_export.runtime.torch_decoder import Decoder
from innerq_export.runtime.torch_model import Ranks, load_model
from innerq_export.runtime.torch_weights import check_ranks
from innerq_export.spec import CacheConfig

_PATIENCE = timedelta(minutes=5)
_SECONDS_TO_LEAVE = 10
_STARTED, _READY, _LEAVING = "started", "ready", "leaving"


@dataclass(frozen=True)
class Part:
    """What every rank builds its decoder from."""

    checkpoint: Checkpoint
    cache: CacheConfig
    dtype: torch.dtype
    device: str
    count: int
    compiled: bool
    threads: int = 0


def build_decoder(part: Part, rank: int = 0) -> Decoder:
    """Return the decoder of one rank, weights loaded, on its device."""
    device = torch.device(part.device, rank) if part.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    group = dist.group.WORLD if part.count > 1 else None
    model, shape = load_model(part.checkpoint, part.dtype, device, Ranks(rank, part.count, group))
    window = torch.float16 if part.dtype == torch.float32 and device.type == "cuda" else part.dtype
    return Decoder(model, part.cache, shape, window, device, compiled=part.compiled)


class OtherRanks:
    """Processes 1 .. count - 1, started and told what to do by process 0, which is the caller.

    Raises EnvironmentMismatchError where there are fewer cards, ConfigError in a process that is in a group already
    (one session over ranks at a time), UserError with the rank's words where one fails.
    """

    def __init__(self, part: Part):
        check_ranks(part.checkpoint.shape, part.count)
        self.count, self._on_cards = part.count, part.device == "cuda"
        self._over: UserError | None = None
        cards = torch.cuda.device_count()
        if self._on_cards and cards < part.count:
            raise EnvironmentMismatchError(
                f"--tp {part.count} needs a card for each process", expected=f"{part.count} cards", got=cards,
                fix=f"--tp {max(cards, 1)}",
            )  # fmt: skip
        if dist.is_initialized():
            raise ConfigError(
                f"--tp {part.count}: this process is in a group already", expected="one session over several ranks",
                got=f"a group of {dist.get_world_size()}", fix="close() the other session first",
            )  # fmt: skip
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        try:
            self._start(part)
        except BaseException:
            self.close(None)
            raise

    def _start(self, part: Part) -> None:
        context = mp.get_context("spawn")
        store = dist.TCPStore("127.0.0.1", 0, part.count, is_master=True, wait_for_workers=False)
        for rank in range(1, part.count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(part, rank, store.port, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        self._expect(_STARTED)
        _join(part, 0, store)

    def wait(self) -> None:
        """Return when every rank has its weights."""
        self._expect(_READY)
        self._watcher = Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def tell(self, method: str, *arguments: Any) -> None:
        """Let every rank call this method of its decoder; returns at once."""
        self.check()
        try:
            for pipe in self._pipes:
                pipe.send((method, arguments))
        except OSError:
            self.check(_SECONDS_TO_LEAVE)
            raise

    def check(self, seconds: float = 0) -> None:
        """Raise UserError with its words if a rank has failed, or does so within `seconds`."""
        self._watcher.join(seconds)
        if self._over:
            raise self._over

    def break_off(self) -> None:
        """Rank 0 has failed: the others wait for it in vain, and this session is over."""
        self._over = self._over or UserError("rank 0 failed", fix="open the session again")

    def close(self, decoder: Decoder | None) -> None:
        """End the processes, let go of rank 0's `decoder`, and leave the group; what hangs is left behind.

        NCCL ends no communicator that a graph holds: graphs go first, or while the communicator is aborted.
        """
        broken, self._over = self._over, UserError("the session is closed", fix="open another")
        ender = None
        if broken or not self._dismiss():
            for process in self._processes:
                process.kill()
            ender = Thread(target=self._abort, daemon=True)
            ender.start()
        if decoder:
            decoder.close()
        if ender:
            ender.join(_SECONDS_TO_LEAVE)
        if dist.is_initialized() and not (ender and ender.is_alive()):
            dist.destroy_process_group()
        for process in self._processes:
            process.join(_SECONDS_TO_LEAVE)
            process.kill()
        self._pipes, self._processes = [], []

    def _dismiss(self) -> bool:
        """Tell every rank to leave; returns whether all of them do."""
        try:
            for pipe in self._pipes:
                pipe.send(None)
            return all(pipe.poll(_SECONDS_TO_LEAVE) and _heard(pipe) == _LEAVING for pipe in self._pipes)
        except OSError:
            return False

    def _expect(self, word: str) -> None:
        for rank, pipe in enumerate(self._pipes, 1):
            if (said := _heard(pipe)) != word:
                self._over = _failed(rank, said)
                raise self._over

    def _watch(self) -> None:
        """Sleep until a rank says something unasked or ends; then free rank 0 from waiting for it."""
        ready = wait(self._pipes)
        if self._over:
            return
        rank, pipe = next((rank, pipe) for rank, pipe in enumerate(self._pipes, 1) if pipe in ready)
        self._over = _failed(rank, _heard(pipe))
        self._abort()

    def _abort(self) -> None:
        """End the sums that are waited for; gloo's end by themselves when a process is gone."""
        if self._on_cards and dist.group.WORLD:
            dist.group.WORLD.abort()


def _failed(rank: int, words: str) -> UserError:
    return UserError(f"rank {rank} failed", got=words, fix="run with --tp 1 to see whether one card can")


def _heard(pipe: Connection) -> str:
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return "the process ended"


def _join(part: Part, rank: int, store: dist.Store) -> None:
    card = torch.device("cuda", rank) if part.device == "cuda" else None
    if card:
        torch.cuda.set_device(card)
    dist.init_process_group(
        "nccl" if card else "gloo", store=store, rank=rank, world_size=part.count, timeout=_PATIENCE, device_id=card
    )


def _serve(part: Part, rank: int, port: int, pipe: Connection) -> None:
    """Be a rank: build a decoder, then call what the pipe says until it says None or rank 0 is gone.

    Ends at once after a failure: a plain end would wait for the ranks that wait for this one.
    """
    try:
        torch.set_num_threads(part.threads or torch.get_num_threads())
        pipe.send(_STARTED)
        _join(part, rank, dist.TCPStore("127.0.0.1", port, part.count))
        decoder = build_decoder(part, rank)
        pipe.send(_READY)
        while (said := pipe.recv()) is not None:
            method, arguments = said
            getattr(decoder, method)(*arguments)
        pipe.send(_LEAVING)
        decoder.close()
        dist.destroy_process_group()
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        os._exit(0)
    except Exception:
        pipe.send(traceback.format_exc(limit=-1))
        os._exit(1)
