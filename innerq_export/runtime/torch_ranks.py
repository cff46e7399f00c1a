"""The other processes of a tensor-parallel session: each holds its heads and weights and does what rank 0 does.

Sums over ranks are torch.distributed's: NCCL on cards, gloo on the CPU. What to do next comes through a pipe.
"""

from __future__ import annotations

import socket
import traceback
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from innerq_export.artifacts import Checkpoint
from innerq_export.errors import EnvironmentMismatchError, UserError
from innerq_export.runtime.torch_decoder import Decoder
from innerq_export.runtime.torch_model import Ranks, load_model
from innerq_export.runtime.torch_weights import check_ranks
from innerq_export.spec import CacheConfig

_PATIENCE = timedelta(minutes=5)


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

    Raises EnvironmentMismatchError where there are fewer cards, UserError with the rank's words where one fails.
    """

    def __init__(self, part: Part):
        check_ranks(part.checkpoint.shape, part.count)
        self.count = part.count
        cards = torch.cuda.device_count()
        if part.device == "cuda" and cards < part.count:
            raise EnvironmentMismatchError(
                f"--tp {part.count} needs a card for each process", expected=f"{part.count} cards", got=cards,
                fix=f"--tp {max(cards, 1)}",
            )  # fmt: skip
        context, address = mp.get_context("spawn"), f"tcp://127.0.0.1:{_free_port()}"
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for rank in range(1, part.count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(part, rank, address, theirs), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)
        _join(part, 0, address)

    def wait(self) -> None:
        """Return when every rank has its weights."""
        for rank, pipe in enumerate(self._pipes, 1):
            try:
                said = pipe.recv()
            except EOFError:
                said = "the process ended"
            if said != "ready":
                raise UserError(f"rank {rank} failed", got=said, fix="run with --tp 1 to see whether one card can")

    def tell(self, method: str, *arguments: Any) -> None:
        """Let every rank call this method of its decoder; returns at once."""
        for rank, (pipe, process) in enumerate(zip(self._pipes, self._processes, strict=True), 1):
            if not process.is_alive():
                raise UserError(f"rank {rank} is gone", got=f"exit code {process.exitcode}", fix="start the run again")
            pipe.send((method, arguments))

    def close(self) -> None:
        """End the processes and leave the group."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            if process.is_alive():
                pipe.send(None)
            process.join(timeout=10)
        self._pipes, self._processes = [], []
        if dist.is_initialized():
            dist.destroy_process_group()


def _join(part: Part, rank: int, address: str) -> None:
    backend = "nccl" if part.device == "cuda" else "gloo"
    if part.device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=part.count, timeout=_PATIENCE)


def _serve(part: Part, rank: int, address: str, pipe: Connection) -> None:
    """Be a rank: build a decoder, then call what the pipe says until it says None or rank 0 is gone."""
    try:
        torch.set_num_threads(part.threads or torch.get_num_threads())
        _join(part, rank, address)
        decoder = build_decoder(part, rank)
    except Exception:
        pipe.send(traceback.format_exc(limit=-1))
        return
    pipe.send("ready")
    try:
        while (said := pipe.recv()) is not None:
            method, arguments = said
            getattr(decoder, method)(*arguments)
    except (EOFError, KeyboardInterrupt):
        return
    dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
