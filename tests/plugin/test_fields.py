"""Creating plugins from fields: every good configuration, and each kind of bad field refused by name."""

import struct

import pytest

from innerq_export.spec import PRESETS, SPEC_VERSION, CacheConfig
from innerq_export.spec.ops import attributes_of
from tests.plugin.host import CHAR, FLOAT32, INT32, INT64, field, fields
from tests.plugin.ports import NODES

ALL = pytest.mark.parametrize("node", NODES, ids=lambda node: node.op.name)
UNUSUAL = CacheConfig(key_bits=8, key_mode="hybrid", value_bits=2, value_mode="asymmetric", sink=0, recent=0)


def words(node, **replaced):
    """Words of all fields, those in `replaced` given as raw [type, length, data]; None leaves a field out."""
    out = []
    for name, value in attributes_of(node.op, node.config).items():
        raw = replaced.get(name, field(value)) if name in replaced else field(value)
        out += [] if raw is None else [name, *raw]
    return [len(out) // 4, *out]


@ALL
@pytest.mark.parametrize("config", [*PRESETS.values(), UNUSUAL, CacheConfig(key_norm="none")], ids=str)
def test_every_configuration_is_accepted(host, node, config):
    words = fields(attributes_of(node.op, config, scale=0.25))
    assert host.call("create", "p", node.op.name, "build", *words)["status"] == 0


@ALL
def test_integers_may_be_int64_and_text_may_end_in_nul(host, node):
    sink = [INT64, 1, struct.pack("<q", 32).hex()]
    mode = [CHAR, 10, b"symmetric\0".hex()]
    host.ok("create", "p", node.op.name, "build", *words(node, sink=sink, key_mode=mode))
    assert "keys 3-bit symmetric," in host.ok("describe", "p")["metadata"]


BAD = {
    "missing": ("sink", None, "field 'sink' is missing"),
    "wrong type": ("sink", [FLOAT32, 1, "00000000"], "field 'sink': expected one int32"),
    "two entries": ("sink", [INT32, 2, "0000000000000000"], "field 'sink': expected one int32"),
    "no entries": ("sink", [INT32, 0, "00000000"], "field 'sink': expected one int32"),
    "negative length": ("sink", [INT32, -1, "00000000"], "field 'sink': expected one int32"),
    "no data": ("sink", [INT32, 1, "null"], "and no data"),
    "int64 beyond int32": (
        "sink",
        [INT64, 1, struct.pack("<q", 1 << 40).hex()],
        "expected an int32, got 1099511627776",
    ),
    "negative": ("sink", field(-1), "config.sink: expected 0"),
    "absurd": ("recent", field(1 << 30), "config.recent: expected 0"),
    "bits": ("key_bits", field(5), "config.key_bits: expected 2, 3, 4 or 8, got 5"),
    "unknown word": (
        "value_mode",
        field("symmetrical"),
        "expected one of symmetric, symmetric_full, asymmetric, hybrid",
    ),
    "a word's beginning": (
        "key_norm",
        field("pre"),
        "field 'key_norm': expected one of prefill, folded, none, got 'pre'",
    ),
    "text as number": ("key_mode", field(1), "field 'key_mode': expected text"),
    "another version": ("spec_version", field(SPEC_VERSION + 1), f"made for contract version {SPEC_VERSION + 1}"),
}


@ALL
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_field_is_refused_by_name(host, node, kind):
    name, raw, message = BAD[kind]
    answer = host.refused("create", "bad", node.op.name, "build", *words(node, **{name: raw}))
    assert message in answer and node.op.name in answer


@ALL
def test_unknown_and_repeated_fields_are_refused(host, node):
    good = attributes_of(node.op, node.config)
    assert "unknown field 'sinks'" in host.refused("create", "bad", node.op.name, "build", *fields(good | {"sinks": 1}))
    count, *rest = fields(good)
    twice = [count + 1, *rest, "sink", *field(32)]
    assert "field 'sink' is given twice" in host.refused("create", "bad", node.op.name, "build", *twice)
    nameless = [count + 1, *rest, "null", *field(32)]
    assert "unknown field '(no name)'" in host.refused("create", "bad", node.op.name, "build", *nameless)


@ALL
@pytest.mark.parametrize("count", [0, 3, -1, 99])
def test_a_collection_without_fields_is_refused(host, node, count):
    assert node.op.name in host.refused("create_raw", "bad", node.op.name, count)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1.0])
def test_an_impossible_scale_is_refused(host, scale):
    attributes = attributes_of(NODES[1].op, CacheConfig(), scale)
    assert "field 'scale'" in host.refused("create", "bad", "InnerQAttention", "build", *fields(attributes))
