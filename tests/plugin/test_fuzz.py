"""Random fields and shapes: the plugin accepts or refuses, it never brings the process down.

Library and program are built with the address and undefined-behaviour sanitisers here, which end the process at the
first bad access.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from innerq_export.spec import BITS, KEY_NORMS, MODES
from innerq_export.spec.ops import OPS, attributes_of
from tests.plugin.host import HostDiedError, PluginHost, field, fields, ranges
from tests.plugin.ports import NODES

FUZZ = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
INTEGERS = st.one_of(st.sampled_from([*BITS, 0, 1, 32, 96]), st.integers(-(1 << 31), (1 << 31) - 1))
RAW = st.tuples(
    st.integers(-2, 20), st.integers(-3, 12), st.one_of(st.just(b"null"), st.binary(min_size=96, max_size=96))
)
"""Type, length and bytes of a field; the bytes are always more than any type and length can ask for."""
VALUES = st.one_of(
    INTEGERS.map(field), st.sampled_from([*MODES, *KEY_NORMS, "", "x"]).map(field), st.floats(width=32).map(field)
)
FIELD = st.one_of(VALUES, RAW.map(lambda raw: [raw[0], raw[1], "null" if raw[2] == b"null" else raw[2].hex()]))
NAMES = st.one_of(
    st.sampled_from([*OPS["InnerQAttention"].attributes, "null"]), st.from_regex(r"[a-z]{1,12}", fullmatch=True)
)


def padded(words):
    """Empty text would be a missing word on the command line."""
    return [word if word != "" else "null" for word in words]


@FUZZ
@given(st.sampled_from(NODES), st.lists(st.tuples(NAMES, FIELD), max_size=12))
def test_random_fields(hardened, node, entries):
    words = [word for name, raw in entries for word in (name, *padded(raw))]
    answer = hardened.call("create", "fuzz", node.op.name, "build", len(entries), *words)
    assert answer["status"] == 0 or [line for line in answer["log"] if line.startswith("error: ")]


@FUZZ
@given(st.sampled_from(NODES), st.data())
def test_one_random_field_among_good_ones(hardened, node, data):
    good = attributes_of(node.op, node.config)
    name = data.draw(st.sampled_from(list(good)))
    raw = padded(data.draw(FIELD))
    words = [word for key, value in good.items() for word in (key, *(raw if key == name else field(value)))]
    answer = hardened.call("create", "fuzz", node.op.name, "build", len(good), *words)
    if answer["status"] == 0:
        metadata = hardened.ok("describe", "fuzz")["metadata"]
        hardened.ok("recreate", "fuzz", "again", "runtime", 0)
        assert hardened.ok("describe", "again")["metadata"] == metadata
    else:
        assert any(name in line or "config." in line or "contract version" in line for line in answer["log"])


EXTENTS = st.one_of(
    st.integers(-2, 40), st.sampled_from([64, 128, 160, 256, 1 << 20, 1 << 31, (1 << 63) - 1, -(1 << 63)])
)
SHAPES = st.one_of(st.none(), st.lists(EXTENTS, max_size=8).map(tuple))
KINDS = st.one_of(st.none(), st.sampled_from(["half", "bf16", "int32", "float", "int8", "99"]))


@FUZZ
@given(st.sampled_from(NODES), st.data())
def test_random_shapes_and_types(hardened, node, data):
    hardened.ok("create", "fuzz", node.op.name, "build", *fields(attributes_of(node.op, node.config)))
    entries = []
    for known, *bounds in node.ranges():
        changed = data.draw(st.booleans())
        kind = (data.draw(KINDS) if changed else None) or known
        entries.append((kind, *((data.draw(SHAPES) if changed else None) or shape for shape in bounds)))
    inputs = data.draw(st.integers(0, len(entries)))
    inputs = data.draw(st.sampled_from([len(node.inputs), inputs]))
    words = ranges(entries, inputs)
    configured = hardened.call("configure", "fuzz", *words)
    assert configured["status"] in (0, 1)
    asked = hardened.call("workspace", "fuzz", *words)
    assert asked["bytes"] >= 0
    single = [inputs, len(entries) - inputs]
    for kind, _, _, shape in entries:
        single += ["null", kind, len(shape), *shape]
    changed = hardened.call("shape_change", "fuzz", *single)
    called = hardened.call("enqueue", "fuzz", "0", "null", 1, *single)
    assert changed["status"] in (0, 1)
    assert called["status"] == 1, "every tensor is NULL"


def test_fuzzed_fields_reach_both_answers(hardened):
    """The strategies are no use if they never make a good plugin, or never a bad one."""
    node = NODES[0]
    good = attributes_of(node.op, node.config)
    outcomes = {
        hardened.call("create", "f", node.op.name, "build", *fields(good | {"sink": sink}))["status"]
        for sink in (0, -1)
    }
    assert outcomes == {0, 1}


def test_a_crash_would_be_noticed(built):
    driver = PluginHost(built.program)
    driver.ok("load", built.library)
    driver.process.kill()
    with pytest.raises(HostDiedError, match="exit -9"):
        driver.call("describe", "p")
