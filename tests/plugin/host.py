"""The host program's Python side, which parity's plugin rung uses too."""

from innerq_export.parity.ops.plugin_host import (
    CHAR,
    FLOAT32,
    INT32,
    INT64,
    HostDiedError,
    PluginHost,
    dims,
    field,
    fields,
    ranges,
    tensors,
)

__all__ = [
    "CHAR",
    "FLOAT32",
    "INT32",
    "INT64",
    "HostDiedError",
    "PluginHost",
    "dims",
    "field",
    "fields",
    "ranges",
    "tensors",
]
