"""Network -> plan file with TensorRT's builder. One path for TensorRT-RTX, which CI runs, and for TensorRT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from innerq_export.engine.capabilities import capability_codes
from innerq_export.engine.estimate import Estimate
from innerq_export.engine.logger import quiet_logger
from innerq_export.engine.monitor import progress_monitor
from innerq_export.engine.parser import parse
from innerq_export.engine.plan_file import write_plan
from innerq_export.engine.plan_request import PlanRequest
from innerq_export.engine.plugin_library import register
from innerq_export.engine.shapes import add_profiles
from innerq_export.engine.timing_cache import TimingCache
from innerq_export.errors import OutOfMemoryError, RewriteError, UserError


def build_plan(trt: Any, request: PlanRequest, started: Callable[[Estimate], None]) -> str:
    """Build what `request` asks for with module `trt` (tensorrt or tensorrt_rtx); return the plan's SHA-256 as hex.

    `started` gets the live estimate.

    Raises RewriteError when parser or builder refuse the model, OutOfMemoryError, ConfigError for an unknown card,
    EnvironmentMismatchError for a plugin library that the registry refuses. The plan appears in one rename.
    """
    logger = quiet_logger(trt)
    if request.library is not None:
        register(trt, request.library)
    builder = trt.Builder(logger)
    network, parser = parse(trt, builder, logger, request.model)
    config = builder.create_builder_config()
    timings = TimingCache(request.timing_cache)
    timings.attach(config)
    _configure(trt, config, request)
    add_profiles(builder, config, network, request.profiles)
    estimate = Estimate(len(request.profiles), network.num_layers)
    config.progress_monitor = progress_monitor(trt, estimate)
    started(estimate)
    draft = request.plan.with_name(f".{request.plan.name}.new")
    digest = write_plan(trt, builder, network, config, draft)
    if digest is None:
        raise refused(trt, logger.errors)
    del parser
    timings.save()
    draft.replace(request.plan)
    return digest


def refused(trt: Any, errors: list[str]) -> UserError:
    """Return the error for a build that gave no plan, with the builder's own words."""
    reasons = "; ".join(errors[-3:]) or "no reason given"
    if "outofmemory" in reasons.lower().replace(" ", ""):
        return OutOfMemoryError(
            f"{trt.__name__} ran out of memory", got=reasons, fix="a smaller --max-context or --max-batch"
        )
    return RewriteError(
        f"{trt.__name__} {trt.__version__} cannot build the model",
        expected="a plan",
        got=reasons,
        fix="build with --backend onnxruntime, and report the reason above",
    )


def _configure(trt: Any, config: Any, request: PlanRequest) -> None:
    if request.library is not None:
        config.set_preview_feature(trt.PreviewFeature.ALIASED_PLUGIN_IO_10_03, True)
    if request.compute_capabilities:
        codes = capability_codes(trt, request.compute_capabilities)
        config.num_compute_capabilities = len(codes)
        for index, code in enumerate(codes):
            config.set_compute_capability(code, index)
