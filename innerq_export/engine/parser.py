"""ONNX file -> TensorRT network, with errors that name node, op and reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from innerq_export.errors import RewriteError

_SHOWN = 5


def parse(trt: Any, builder: Any, logger: Any, path: Path) -> tuple[Any, Any]:
    """Return (network, parser) of the ONNX file; keep the parser alive as long as the network.

    `trt` is the module tensorrt or tensorrt_rtx. Raises RewriteError with every node that the parser refused.
    """
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        raise RewriteError(
            f"{trt.__name__} {trt.__version__} cannot read {path.name}",
            expected="nodes that its ONNX parser knows",
            got=_reasons(parser, logger),
            fix="build with --backend onnxruntime, or report the node above",
        )
    return network, parser


def _strongly_typed(trt: Any) -> int:
    """TensorRT 10 has typing as a flag; in 11 every network is strongly typed and the flag may be gone."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _reasons(parser: Any, logger: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = [_reason(error) for error in errors[:_SHOWN]]
    if len(errors) > _SHOWN:
        lines.append(f"and {len(errors) - _SHOWN} more")
    return "; ".join(lines) or logger.last_error or "no reason given"


def _reason(error: Any) -> str:
    where = f"node {error.node()} '{error.node_name()}', op {error.node_operator()}"
    functions = "/".join(error.local_function_stack())
    return f"{where}{f' in {functions}' if functions else ''}: {error.desc()}"
