"""From traced bodies to ONNX functions of the domain `innerq`, for one cache configuration and one model geometry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from onnxscript import build_function

from innerq_export.errors import ConfigError, nearest
from innerq_export.rewrite.functions.append import append_body
from innerq_export.rewrite.functions.attention import FLAVOURS, attention_body
from innerq_export.rewrite.geometry import Geometry
from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import APPEND, ATTENTION, DOMAIN, Op, attributes_of

OPSET = 23


def append_function(config: CacheConfig, geometry: Geometry) -> ir.Function:
    """Return InnerQAppend; inputs and outputs in the order of the op table, logical layout."""
    return _function(APPEND, config, geometry, lambda op, inputs: append_body(op, inputs, config))


def attention_function(config: CacheConfig, geometry: Geometry, flavour: str = "matmul") -> ir.Function:
    """Return InnerQAttention in one flavour: `matmul` (fp32, for ONNX Runtime) or `attention` (for TensorRT-RTX)."""
    if flavour not in FLAVOURS:
        raise ConfigError(f"unknown attention flavour '{flavour}'", got=flavour, fix=nearest(flavour, FLAVOURS))
    return _function(
        ATTENTION, config, geometry, lambda op, inputs: attention_body(op, inputs, config, geometry.scale, flavour)
    )


def _function(op_type: Op, config: CacheConfig, geometry: Geometry, body: Callable[..., Any]) -> ir.Function:
    """Trace `body` over the ports of the op table; attributes state the configuration that is built in."""
    stated = attributes_of(op_type, config, geometry.scale)
    function = build_function(
        lambda op, *values: body(op, list(values)),
        [geometry.value(port, config) for port in op_type.inputs_for(config, "logical")],
        domain=DOMAIN,
        name=op_type.name,
        attributes=ir.convenience.convert_attributes(stated),
        opset_imports={"": OPSET},
    )
    for index, node in enumerate(function):
        node.name = f"{op_type.name}/{node.op_type}_{index}"
        node.metadata_props.clear()
    return function
