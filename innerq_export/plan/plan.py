"""`make_plan`: what a request will take, from headers alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from innerq_export.checkpoint.support import unprovable
from innerq_export.engine import BuildOptions, BuildRequest, default_profiles, resolve
from innerq_export.engine.strict import decode
from innerq_export.errors import ConfigError, OutOfMemoryError, UserError
from innerq_export.plan.cards import GpuCard, find_card
from innerq_export.plan.costs import ITEM_BYTES, weights_of
from innerq_export.plan.gpu import GpuMemory, GpuModel, block_bytes
from innerq_export.plan.headers import Headers, read_headers
from innerq_export.plan.history import NVIDIA, read_history
from innerq_export.plan.machine import available_memory
from innerq_export.plan.problems import (
    NOTE,
    Problem,
    card_problems,
    disk_problems,
    memory_problems,
    model_problems,
    of_error,
)
from innerq_export.plan.stages import Phase, phases_of
from innerq_export.spec import GROUP_SIZE, fp16_kv_bytes_per_token, kv_bytes_per_token

SCHEMA = 2


@dataclass(frozen=True)
class Kv:
    """Bytes of keys and values that one more token costs: in the kernels' packed records, as `backend` lays it out, and
    in plain fp16 and fp8 caches.
    """

    packed: float
    backend: float
    fp16: int
    fp8: int


@dataclass(frozen=True)
class Fit:
    """The engine on a card with `memory` bytes: what it takes, the longest context at the request's batch, and the
    largest batch at its context. `name` is None where only memory was given.
    """

    name: str | None
    memory: int
    needed: GpuMemory
    longest_context: int
    largest_batch: int


@dataclass(frozen=True)
class Plan:
    """The answer. `request` has backend and context decided; `digest` is that of the headers it was made from;
    `card` and `memory` are what `make_plan` was given.

    `engine_bytes`: what the engine folder adds to the disk, `weight_bytes`: of the weights in the engine's dtype.
    """

    request: BuildRequest
    digest: str
    notes: tuple[str, ...]
    layers: int
    weight_bytes: int
    engine_bytes: int
    plan_bytes: int
    phases: tuple[Phase, ...]
    available_memory: int | None
    kv: Kv
    needed: GpuMemory
    fit: Fit | None
    problems: tuple[Problem, ...]
    card: str | None = None
    memory: int | None = None
    schema: int = SCHEMA

    @property
    def exit_code(self) -> int:
        """0 when nothing stands against the build, else the code of the first problem."""
        return next((problem.code for problem in self.problems if problem.code != NOTE), 0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` gives back an equal plan."""
        return json.loads(json.dumps(asdict(self), default=str))

    def to_json(self) -> str:
        """Return the text of plan.json."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Plan:
        """Return the plan that `to_json` wrote. ConfigError names what does not fit in the file `where`."""
        try:
            return decode(cls, json.loads(text))
        except (ValueError, UserError) as error:
            fix = "make it again: innerq-export plan MODEL --save FILE"
            raise ConfigError(f"{where} is no plan", got=str(error).splitlines()[0], fix=fix) from error


def make_plan(request: BuildRequest, card: str | None = None, memory: int | None = None) -> Plan:
    """Return what building `request` will take. No weight is read.

    `card`: a name of `CARDS` that the engine shall run on, None for this machine's; `memory`: bytes of GPU memory that
    may be used, instead of all that the card has.

    Raises UserError for a model that cannot be found or read and for an unknown card; all else is in `problems`.
    """
    chosen = find_card(card)
    headers = read_headers(request.model)
    decided, found = _decide(request, headers)
    phases = phases_of(headers, decided, decided.backend, read_history())
    available = available_memory()
    model = _gpu_model(headers, decided)
    fit = _fit(model, decided, chosen, memory)
    problems = [
        *model_problems(headers),
        *found,
        *card_problems(decided, decided.backend, chosen),
        *disk_problems(phases, headers, decided.output),
        *memory_problems(phases, available),
        *_fit_problems(fit, decided),
    ]
    return Plan(
        request=decided,
        digest=headers.digest,
        notes=headers.notes,
        layers=headers.shape.layers,
        weight_bytes=model.weights,
        engine_bytes=sum(phase.disk for phase in phases if phase.name != "download"),
        plan_bytes=sum(phase.disk for phase in phases if phase.name in NVIDIA),
        phases=phases,
        available_memory=available,
        kv=_kv(headers, decided),
        needed=model.at(decided.max_batch, decided.max_context or 1),
        fit=fit,
        problems=tuple(problems),
        card=card,
        memory=memory,
    )


def _decide(request: BuildRequest, headers: Headers) -> tuple[BuildRequest, list[Problem]]:
    """Return the request with backend and context chosen as `build` chooses them, and why it would refuse them."""
    shape = headers.shape
    problems = [of_error(error) for error in unprovable(headers.config, request.dtype, request.parity)]
    context = request.context(shape)
    backend = request.backend
    try:
        backend = resolve(request.backend, BuildOptions(request.options.compute_capabilities)).name
    except UserError as error:
        problems.append(of_error(error))
    try:
        default_profiles(shape, request.cache, request.max_batch, context)
    except UserError as error:
        problems.append(of_error(error))
    return replace(request, backend=backend, max_context=context), problems


def _gpu_model(headers: Headers, request: BuildRequest) -> GpuModel:
    return GpuModel(
        shape=headers.shape,
        config=headers.config,
        cache=request.cache,
        backend=request.backend,
        weights=weights_of(headers.tensors, request.dtype).engine,
        item_bytes=ITEM_BYTES[request.dtype],
        all_logits=request.logits == "all",
    )


def _kv(headers: Headers, request: BuildRequest) -> Kv:
    shape = headers.shape
    heads, packed = shape.layers * shape.kv_heads, request.backend == "tensorrt"
    fp16 = fp16_kv_bytes_per_token(shape.layers, shape.kv_heads, shape.head_dim)
    return Kv(
        packed=kv_bytes_per_token(request.cache, shape.layers, shape.kv_heads, shape.head_dim),
        backend=heads * block_bytes(request.cache, shape.head_dim, packed=packed) / GROUP_SIZE,
        fp16=fp16,
        fp8=fp16 // 2,
    )


def _fit(model: GpuModel, request: BuildRequest, card: GpuCard | None, memory: int | None) -> Fit | None:
    memory = memory or (card.memory if card else None)
    if memory is None:
        return None
    batch, context = request.max_batch, request.max_context or 1
    return Fit(
        name=card.name if card else None,
        memory=memory,
        needed=model.at(batch, context),
        longest_context=model.longest_context(memory, batch),
        largest_batch=model.largest_batch(memory, context),
    )


def _fit_problems(fit: Fit | None, request: BuildRequest) -> Iterator[Problem]:
    if fit is None or fit.needed.total <= fit.memory:
        return
    ways = [f"--max-context {fit.longest_context}"] if fit.longest_context > 1 else []
    ways += [f"--max-batch {fit.largest_batch}"] if fit.largest_batch else []
    yield Problem(
        OutOfMemoryError.exit_code,
        f"{request.max_batch} sequences of {request.max_context} tokens need {fit.needed.total:,} bytes on the card, "
        f"which has {fit.memory:,}",
        " or ".join(ways) or "a card with more memory",
    )
