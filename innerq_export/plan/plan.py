"""`make_plan`: the question answered, from headers alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from innerq_export.engine import BuildOptions, default_profiles, resolve
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
from innerq_export.plan.question import Question
from innerq_export.plan.stages import Phase, phases_of
from innerq_export.spec import GROUP_SIZE, fp16_kv_bytes_per_token, kv_bytes_per_token

SCHEMA = 1
_USUAL_CONTEXT = 8192


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
    """The engine on a card with `memory` bytes: what it takes, the longest context at the question's batch, and the
    largest batch at its context. `name` is None where only memory was given.
    """

    name: str | None
    memory: int
    needed: GpuMemory
    longest_context: int
    largest_batch: int


@dataclass(frozen=True)
class Plan:
    """The answer. `question` has backend and context decided; `digest` is that of the headers it was made from.

    `engine_bytes`: what the engine folder adds to the disk, `weight_bytes`: of the weights in the engine's dtype.
    """

    question: Question
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
    schema: int = SCHEMA

    @property
    def exit_code(self) -> int:
        """0 when nothing stands against the build, else the code of the first problem."""
        return next((problem.code for problem in self.problems if problem.code != NOTE), 0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` gives back an equal plan."""
        return json.loads(json.dumps(asdict(self)))

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


def make_plan(question: Question) -> Plan:
    """Return what building `question` will take. No weight is read.

    Raises UserError for a model that cannot be found or read and for an unknown card; all else is in `problems`.
    """
    card = find_card(question.card)
    headers = read_headers(question.model)
    decided, found = _decide(question, headers)
    phases = phases_of(headers, decided, decided.backend, read_history())
    available = available_memory()
    model = _gpu_model(headers, decided)
    fit = _fit(model, decided, card)
    problems = [
        *model_problems(headers),
        *found,
        *card_problems(decided, decided.backend, card),
        *disk_problems(phases, headers, Path(decided.output)),
        *memory_problems(phases, available),
        *_fit_problems(fit, decided),
    ]
    return Plan(
        question=decided,
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
    )


def _decide(question: Question, headers: Headers) -> tuple[Question, list[Problem]]:
    """Return the question with backend and context chosen as `build` chooses them, and why it would refuse them."""
    shape, problems = headers.shape, []
    context = question.max_context or min(_USUAL_CONTEXT, shape.max_positions)
    backend = question.backend
    try:
        backend = resolve(question.backend, BuildOptions(question.compute_capabilities)).name
    except UserError as error:
        problems.append(of_error(error))
    try:
        default_profiles(shape, question.cache, question.max_batch, context)
    except UserError as error:
        problems.append(of_error(error))
    return replace(question, backend=backend, max_context=context), problems


def _gpu_model(headers: Headers, question: Question) -> GpuModel:
    return GpuModel(
        shape=headers.shape,
        config=headers.config,
        cache=question.cache,
        backend=question.backend,
        weights=weights_of(headers.tensors, question.dtype).engine,
        item_bytes=ITEM_BYTES[question.dtype],
        all_logits=question.logits == "all",
    )


def _kv(headers: Headers, question: Question) -> Kv:
    shape = headers.shape
    heads, packed = shape.layers * shape.kv_heads, question.backend == "tensorrt"
    fp16 = fp16_kv_bytes_per_token(shape.layers, shape.kv_heads, shape.head_dim)
    return Kv(
        packed=kv_bytes_per_token(question.cache, shape.layers, shape.kv_heads, shape.head_dim),
        backend=heads * block_bytes(question.cache, shape.head_dim, packed=packed) / GROUP_SIZE,
        fp16=fp16,
        fp8=fp16 // 2,
    )


def _fit(model: GpuModel, question: Question, card: GpuCard | None) -> Fit | None:
    memory = question.memory or (card.memory if card else None)
    if memory is None:
        return None
    batch, context = question.max_batch, question.max_context or 1
    return Fit(
        name=card.name if card else None,
        memory=memory,
        needed=model.at(batch, context),
        longest_context=model.longest_context(memory, batch),
        largest_batch=model.largest_batch(memory, context),
    )


def _fit_problems(fit: Fit | None, question: Question) -> Iterator[Problem]:
    if fit is None or fit.needed.total <= fit.memory:
        return
    ways = [f"--max-context {fit.longest_context}"] if fit.longest_context > 1 else []
    ways += [f"--max-batch {fit.largest_batch}"] if fit.largest_batch else []
    yield Problem(
        OutOfMemoryError.exit_code,
        f"{question.max_batch} sequences of {question.max_context} tokens need {fit.needed.total:,} bytes on the card, "
        f"which has {fit.memory:,}",
        " or ".join(ways) or "a card with more memory",
    )
