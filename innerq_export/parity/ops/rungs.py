"""Rungs below the engine: packing round-trips, each op against the reference, the plugin against the kernels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from innerq_export.artifacts import ModelShape
from innerq_export.errors import UserError
from innerq_export.parity.accuracy import Tally, equality, signal
from innerq_export.parity.compare import Difference
from innerq_export.parity.ops.base import OpBackend, lacks_head_dim
from innerq_export.parity.ops.cases import op_cases
from innerq_export.parity.ops.compare import OpDifference, append_difference, attention_difference, bits_difference
from innerq_export.parity.ops.functions import FunctionOps
from innerq_export.parity.ops.kernels import KernelOps
from innerq_export.parity.ops.packing import KernelPacking, ReferencePacking, round_trip_fault
from innerq_export.parity.ops.plugin import PluginOps
from innerq_export.parity.ops.plugin_host import HostDiedError
from innerq_export.parity.report import FAILED, NOT_RUN, PASSED, Finding, RungResult
from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import APPEND, ATTENTION, OPS, OpCase

PACKING, OP, PLUGIN = "packing", "op", "plugin"
_PACKING_HOLDS = "records and blocks turn into each other bit for bit"
_PLUGIN_HOLDS = "what the plugin writes equals what the kernels write, byte for byte"


@dataclass(frozen=True)
class OpSetting:
    """What the op rungs are run for: configuration, geometry, type of the activations, seeds, and the softmax scale."""

    config: CacheConfig
    shape: ModelShape
    dtype: str
    seeds: Sequence[int] = (0,)
    scale: float = 0.0

    @property
    def cases(self) -> Iterator[OpCase]:
        """The calls of every seed."""
        for seed in self.seeds:
            yield from op_cases(self.config, self.shape, self.dtype, seed)


@dataclass(frozen=True)
class RungOutcome:
    """A rung's result on one backend, what it found, and what was compared."""

    result: RungResult
    finding: Finding | None = None
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True)
class OpRung:
    """A rung on one backend: `lacks` is why it cannot run; `check` answers with its figures and what it found.

    `check` puts what it compares into the tally that it is given.
    """

    name: str
    backend: str
    holds: str
    lacks: str
    calls: int
    check: Callable[[Tally], tuple[dict[str, float], Finding | None]]

    def not_run(self, reason: str) -> RungOutcome:
        """Return the result of not running it."""
        return RungOutcome(RungResult(self.name, NOT_RUN, self.holds, reason=reason, backend=self.backend))

    def run(self) -> RungOutcome:
        """Run unless something is lacking; an implementation that raises or dies has failed."""
        if self.lacks:
            return self.not_run(self.lacks)
        tally = Tally()
        try:
            figures, finding = self.check(tally)
        except (UserError, HostDiedError, RuntimeError, AssertionError) as error:
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            figures, finding = {}, _finding(self.name, self.backend, "a call failed", expected="outputs", got=text)
        status = FAILED if finding else PASSED
        result = RungResult(self.name, status, self.holds, self.calls, figures, backend=self.backend)
        return RungOutcome(result, finding, tally)


def packing_rung(side: ReferencePacking | KernelPacking, setting: OpSetting) -> OpRung:
    """Rung 0."""

    def check(tally: Tally) -> tuple[dict[str, float], Finding | None]:
        sizes = (min(2, setting.shape.kv_heads), setting.shape.head_dim)
        for seed in setting.seeds:
            wrong = round_trip_fault(side, setting.config, *sizes, seed)
            tally.add(f"seed {seed}", "packing", equality(wrong.got - wrong.expected if wrong else None))
            if wrong:
                return {}, _place(PACKING, side.name, f"{wrong.part} does not survive packing", wrong, f"seed {seed}")
        return {}, None

    lacks = side.lacks(setting.config, setting.dtype)
    if isinstance(side, KernelPacking):
        lacks = lacks or lacks_head_dim(side.kernels, setting.shape.head_dim)
    return OpRung(PACKING, side.name, _PACKING_HOLDS, lacks, len(setting.seeds), check)


def op_rung(backend: OpBackend, setting: OpSetting) -> OpRung:
    """Rung 1: both ops on generated inputs, whatever the model does with them."""
    layer, scale = None, setting.scale
    if isinstance(backend, FunctionOps):
        layer, scale = backend.layer, backend.scale
    floor = ATTENTION.tolerance.min_db[setting.dtype]

    def check(tally: Tally) -> tuple[dict[str, float], Finding | None]:
        worst = float("inf")
        for case in setting.cases:
            wrong = append_difference(backend, setting.config, case)
            off = wrong.cache.got - wrong.cache.expected if wrong and wrong.cache else None
            tally.add(_named(case), APPEND.name, equality(off))
            if not wrong:
                level, wrong = attention_difference(backend, setting.config, case, scale)
                tally.add(_named(case), ATTENTION.name, signal(level, floor))
                worst = min(worst, level)
            if wrong:
                return {"worst dB": worst}, _op_finding(backend.name, wrong, floor, layer)
        return {"worst dB": worst}, None

    holds = f"codes, scales, windows bit for bit; attention at least {floor:g} dB for every head and token"
    lacks = backend.lacks(setting.config, setting.dtype) or lacks_head_dim(backend, setting.shape.head_dim)
    return OpRung(OP, backend.name, holds, lacks, len(list(setting.cases)), check)


def plugin_rung(plugin: OpBackend, kernels: OpBackend, setting: OpSetting) -> OpRung:
    """Rung 2: the plugin's enqueue against the C ABI of the kernels."""

    def check(tally: Tally) -> tuple[dict[str, float], Finding | None]:
        for case in setting.cases:
            for op in OPS.values():
                wrong = bits_difference(plugin, kernels, op, setting.config, case)
                tally.add(_named(case), op.name, equality(wrong.got - wrong.expected if wrong else None))
                if wrong:
                    what = f"{op.name} writes another '{wrong.part}' than the kernels"
                    return {}, _place(PLUGIN, plugin.name, what, wrong, _named(case))
        return {}, None

    lacks = plugin.lacks(setting.config, setting.dtype) or kernels.lacks(setting.config, setting.dtype)
    lacks = lacks or lacks_head_dim(plugin, setting.shape.head_dim)
    return OpRung(PLUGIN, plugin.name, _PLUGIN_HOLDS, lacks, len(list(setting.cases)), check)


def op_rungs(functions: Sequence[FunctionOps], setting: OpSetting, only: Collection[str] = ()) -> Iterator[OpRung]:
    """Yield every rung on every backend, bottom up; `functions`: one for each set of bodies in the engine."""
    kernels = [KernelOps("host"), KernelOps("cuda")]
    plugin = PluginOps()
    rungs = [
        packing_rung(ReferencePacking(), setting),
        *(packing_rung(KernelPacking(kernel), setting) for kernel in kernels),
        *(op_rung(function, setting) for function in functions),
        *(op_rung(kernel, setting) for kernel in kernels),
        plugin_rung(plugin, kernels[plugin.kind == "cuda"], setting),
    ]
    try:
        yield from (rung for rung in rungs if not only or rung.name in only)
    finally:
        plugin.close()


def _finding(rung: str, backend: str, what: str, **others: Any) -> Finding:
    where: dict[str, Any] = {"case": "generated inputs", "call": 0, **others}
    return Finding(rung=rung, what=f"{backend}: {what}", advice=_ADVICE[rung], **where)


def _place(rung: str, backend: str, what: str, wrong: Difference, case: str) -> Finding:
    """Return the finding of one number that is not equal bit for bit."""
    unit = "word" if wrong.part in ("records", "present_blocks") else "channel"
    inner = "" if wrong.channel is None else f" ({unit} {wrong.channel})"
    return _finding(
        rung,
        backend,
        what,
        expected=f"{wrong.expected:.9g}{inner}" if isinstance(wrong.expected, float) else f"{wrong.expected}{inner}",
        got=f"{wrong.got:.9g}{inner}" if isinstance(wrong.got, float) else f"{wrong.got}{inner}",
        case=case,
        sequence=wrong.sequence,
        kv_head=wrong.head,
        block=wrong.block,
        token=wrong.token,
    )


def _named(case: OpCase) -> str:
    return f"past {case.past}, new {case.new}, seed {case.seed}"


_ADVICE = {
    PACKING: "spec/layout.py and plugins/include/innerq/layout.cuh disagree: run tests/kernels/test_read.py",
    OP: "run tests/kernels or tests/rewrite on this configuration",
    PLUGIN: "run tests/plugin/test_stack.py; library and program may be of different builds",
}


def _op_finding(backend: str, wrong: OpDifference, floor: float, layer: int | None) -> Finding:
    case, cache = wrong.case, wrong.cache
    advice = f"only {wrong.op.name} is at fault, on inputs of the op table: --bisect writes it with them"
    common: dict[str, Any] = {"rung": OP, "advice": advice, "case": _named(case), "call": 0, "layer": layer}
    if cache is None:
        return Finding(
            what=f"{backend}: attention is not the reference's over the same cache",
            expected=f"at least {floor:g} dB",
            got=f"{wrong.level_db:.1f} dB",
            sequence=wrong.sequence,
            head=wrong.head,
            kv_head=wrong.head // (case.heads // case.kv_heads),
            token=wrong.token,
            **common,
        )
    channel = "" if cache.channel is None else f" (channel {cache.channel})"
    return Finding(
        what=f"{backend}: {cache.part} is not what the reference makes of the same keys and values",
        expected=f"{cache.expected:g}{channel}",
        got=f"{cache.got:g}{channel}",
        sequence=cache.sequence,
        kv_head=cache.head,
        block=cache.block,
        token=cache.token,
        **common,
    )
