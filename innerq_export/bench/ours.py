"""Our kernels as launches to be timed and checked: the bare C ABI, everything but the call itself prepared."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from innerq_export.bench.inputs import POISON, Step
from innerq_export.integrations import calls, views
from innerq_export.integrations.library import Library


def attend_launch(library: Library, steps: list[Step], *, clean_workspace: bool = True) -> Callable[[int], None]:
    """Return launch(i): innerq_attend of step i into its own output. One workspace, as launches of a stream share it.

    Without `clean_workspace` the workspace is poisoned and the library told to expect that.
    """
    attend = library.function("innerq_attend")
    prepared = [_attend_arguments(library, step, clean_workspace) for step in steps]
    cache = steps[0].cache
    bytes_ = max(size for _, size in prepared)
    workspace = calls.scratch(cache, bytes_).fill_(0 if clean_workspace else 0xFF)
    tail = (workspace.data_ptr() or None, bytes_)

    def launch(i: int) -> None:
        status = attend(*prepared[i][0], *tail, calls.stream_of(cache))
        if status:
            library.check("innerq_attend", status)

    launch.kept = (steps, prepared, workspace)  # type: ignore[attr-defined]
    return launch


def attend_checked(library: Library, step: Step) -> Tensor:
    """Return the output of one launch from poisoned output and workspace; nothing may be left poisoned."""
    step.out_BHq1D.fill_(POISON)
    attend_launch(library, [step], clean_workspace=False)(0)
    return step.out_BHq1D


def append_launch(library: Library, steps: list[Step]) -> Callable[[int], None]:
    """Return launch(i): innerq_append of the one new token of step i, whose flush is due if its lengths say so."""
    append = library.function("innerq_append")
    prepared = []
    for step in steps:
        config, cache = views.config_view(step.cache), views.cache_view(step.cache)
        args = views.append_view(step.key_BHkv1D, step.value_BHkv1D, step.past_length_B, None)
        prepared.append(tuple(ctypes.byref(struct) for struct in (config, cache, args)))
    cache_of_stream = steps[0].cache

    def launch(i: int) -> None:
        status = append(*prepared[i], None, 0, calls.stream_of(cache_of_stream))
        if status:
            library.check("innerq_append", status)

    launch.kept = (steps, prepared)  # type: ignore[attr-defined]
    return launch


def relative_error(got: Tensor, expected64: Tensor) -> float:
    """Return ||got - expected|| / ||expected||; NaN stays NaN and so fails every comparison."""
    difference = torch.linalg.vector_norm(got.double() - expected64)
    return (difference / torch.linalg.vector_norm(expected64)).item()


def _attend_arguments(library: Library, step: Step, clean_workspace: bool) -> tuple[tuple[object, ...], int]:
    config, cache = views.config_view(step.cache), views.cache_view(step.cache)
    args = views.attend_view(
        step.query_BHq1D,
        step.key_BHkv1D,
        step.value_BHkv1D,
        step.out_BHq1D,
        step.past_length_B,
        None,
        workspace_is_clean=clean_workspace,
    )
    refs = tuple(ctypes.byref(struct) for struct in (config, cache, args))
    size = library.size_of("innerq_attend_workspace_bytes", *refs[:2], args.query_heads, args.tokens)
    return refs, size
