"""The rungs in order, by name: what a report may list."""

RUNG_NAMES = (
    "packing",
    "op",
    "plugin",
    "model",
    "cache",
    "attention",
    "keys and values",
    "logits",
    "tokens",
    "full precision",
    "as shipped",
    "unquantised",
    "engine",
    "presets",
)
