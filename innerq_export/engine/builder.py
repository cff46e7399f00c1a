"""Network -> plan file with TensorRT's builder. One path for TensorRT-RTX, which CI runs, and for TensorRT."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from innerq_export.engine.logger import quiet_logger
from innerq_export.engine.monitor import progress_monitor
from innerq_export.engine.parser import parse
from innerq_export.engine.profiles import Profile
from innerq_export.engine.shapes import add_profiles
from innerq_export.errors import OutOfMemoryError, RewriteError
from innerq_export.progress import Step

_POLL_SECONDS = 0.1


def build_plan(
    trt: Any,
    onnx_path: Path,
    plan_path: Path,
    profiles: Sequence[Profile],
    configure: Callable[[Any], None],
    step: Step,
) -> None:
    """Build `onnx_path` into the engine file `plan_path`.

    `trt` is the module tensorrt or tensorrt_rtx; `configure(config)` sets what the two do differently. Raises
    RewriteError when parser or builder refuse the model, KeyboardInterrupt when the user stopped it; neither leaves a
    file behind.
    """
    logger = quiet_logger(trt)
    builder = trt.Builder(logger)
    step.advance(0.0, "reading the model")
    network, parser = parse(trt, builder, logger, onnx_path)
    config = builder.create_builder_config()
    configure(config)
    add_profiles(builder, config, network, profiles)
    plan = _run_builder(trt, builder, network, config, logger, step)
    del parser
    draft = plan_path.with_name(f".{plan_path.name}.new")
    draft.write_bytes(plan)
    draft.replace(plan_path)


def _run_builder(trt: Any, builder: Any, network: Any, config: Any, logger: Any, step: Step) -> Any:
    """Build in a thread of its own, so that this one can hear Ctrl-C while TensorRT works."""
    monitor = progress_monitor(trt, step)
    config.progress_monitor = monitor
    plans: list[Any] = []
    worker = threading.Thread(target=lambda: plans.append(builder.build_serialized_network(network, config)))
    worker.start()
    try:
        while worker.is_alive():
            worker.join(_POLL_SECONDS)
    except BaseException:
        monitor.cancel()
        worker.join()
        raise
    if monitor.failure is not None:
        raise monitor.failure
    if not plans or plans[0] is None:
        raise _refused(trt, logger)
    return plans[0]


def _refused(trt: Any, logger: Any) -> Exception:
    reasons = "; ".join(logger.errors[-3:]) or "no reason given"
    if "OutOfMemory" in reasons or "out of memory" in reasons.lower():
        return OutOfMemoryError(
            f"{trt.__name__} ran out of memory", got=reasons, fix="smaller --max-context or --max-batch, or more memory"
        )
    return RewriteError(
        f"{trt.__name__} {trt.__version__} cannot build the model",
        expected="a plan",
        got=reasons,
        fix="build with --backend onnxruntime, and report the reason above",
    )
