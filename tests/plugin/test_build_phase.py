"""What TensorRT's builder asks: types, shapes, formats, aliasing, ranges, workspace."""

import pytest

from innerq_export.integrations import structs
from innerq_export.integrations.library import Library, config_struct
from innerq_export.spec.ops import attributes_of
from tests.plugin.host import fields, ranges
from tests.plugin.ports import NODES

ALL = pytest.mark.parametrize("node", NODES, ids=lambda node: node.op.name)
NUMBERS = {"float": 0, "half": 1, "int8": 2, "int32": 3, "bf16": 7}
LINEAR = 0


@pytest.fixture(autouse=True)
def plugins(host):
    for node in NODES:
        host.ok("create", node.op.name, node.op.name, "build", *fields(attributes_of(node.op, node.config)))


@ALL
@pytest.mark.parametrize("activation", ["half", "bf16"])
def test_output_types_follow_the_activations(host, node, activation):
    kinds = [activation if port.dtype == "T" else node.type_of(port) for port in node.ports]
    count = len(node.inputs)
    answer = host.ok("types", node.op.name, len(kinds) - count, count, *kinds[:count])
    assert answer["types"] == [str(NUMBERS[kind]) for kind in kinds[count:]]


@ALL
def test_wrong_input_types_and_counts_are_refused(host, node):
    kinds = [node.type_of(port) for port in node.inputs]
    outputs = len(node.ports) - len(kinds)
    for index, port in enumerate(node.inputs):
        for other in ("float", "int8", "bf16"):
            if index == 0 and other == "bf16":
                continue
            changed = [*kinds[:index], other, *kinds[index + 1 :]]
            message = host.refused("types", node.op.name, outputs, len(kinds), *changed)
            culprit = "value" if index == 0 and other == "bf16" else port.name
            assert f"tensor '{culprit}'" in message
    assert "expected" in host.refused("types", node.op.name, outputs, len(kinds) - 1, *kinds[:-1])


@ALL
def test_output_shapes_are_expressions_of_the_inputs(host, node):
    labels = [[f"{port.name}.{axis}" for axis in range(len(port.shape))] for port in node.inputs]
    words = [word for row in labels for word in (len(row), *row)]
    outputs = node.ports[len(node.inputs) :]
    shapes = host.ok("shapes", node.op.name, len(outputs), len(labels), *words)["shapes"]
    past = {port.name.replace("past_", "present_"): row for port, row in zip(node.inputs, labels, strict=True)}
    expected = [past.get(port.name, labels[0]) for port in outputs]
    assert shapes == [" ".join(row) for row in expected]


@ALL
def test_wrong_ranks_are_refused(host, node):
    for wrong in range(len(node.inputs)):
        words = []
        for index, port in enumerate(node.inputs):
            rank = len(port.shape) + (index == wrong)
            words += [rank, *["x"] * rank]
        message = host.refused("shapes", node.op.name, len(node.ports) - len(node.inputs), len(node.inputs), *words)
        assert f"tensor '{node.inputs[wrong].name}'" in message


def fits(host, node, position, kinds, layout=LINEAR):
    words = [word for index, kind in enumerate(kinds) for word in (kind, layout if index == position else LINEAR)]
    inputs = len(node.inputs)
    return host.ok("format", node.op.name, position, inputs, len(kinds) - inputs, *words)["fits"] == 1


@ALL
@pytest.mark.parametrize("activation", ["half", "bf16"])
def test_formats_are_linear_and_of_the_tables_types_only(host, node, activation):
    good = [activation if port.dtype == "T" else node.type_of(port) for port in node.ports]
    for position, kind in enumerate(good):
        assert fits(host, node, position, good)
        assert not any(fits(host, node, position, good, layout) for layout in range(1, 13))
        for other in set(NUMBERS) - {kind, *(["half", "bf16"] if position == 0 else [])}:
            assert not fits(host, node, position, [*good[:position], other, *good[position + 1 :]])


@ALL
def test_positions_and_counts_outside_the_table_fit_nothing(host, node):
    good = [node.type_of(port) for port in node.ports]
    assert not fits(host, node, -1, good)
    assert not fits(host, node, len(good), good)
    words = [word for kind in good[:-1] for word in (kind, LINEAR)]
    assert host.ok("format", node.op.name, 0, len(node.inputs) - 1, len(good) - len(node.inputs), *words)["fits"] == 0


def test_caches_alias_their_inputs_and_nothing_else_does(host):
    append, attention = (host.ok("describe", node.op.name) for node in NODES)
    names = [port.name for port in NODES[0].inputs]
    assert [names[int(index)] for index in append["aliases"]] == ["past_window", "past_key_norm", "past_blocks"]
    assert attention["aliases"] == ["-1"]
    assert append["outside"] == attention["outside"] == 1


@ALL
def test_good_ranges_are_accepted(host, node):
    assert host.call("configure", node.op.name, *ranges(node.ranges(), len(node.inputs)))["status"] == 0


@ALL
def test_one_wrong_dimension_is_named(host, node):
    symbols = [symbol for port in node.inputs for symbol in port.shape]
    for port in node.inputs:
        shape = node.shape_of(port)
        for axis, extent in enumerate(shape):
            if symbols.count(port.shape[axis]) == 1 and port.shape[axis] == "NB":
                continue
            changed = (*shape[:axis], extent + 1, *shape[axis + 1 :])
            words = ranges(node.ranges(**{port.name: changed}), len(node.inputs))
            message = host.refused("configure", node.op.name, *words)
            assert node.op.name in message and "tensor '" in message and "expected" in message


@ALL
def test_outputs_of_another_shape_are_refused_when_a_call_is_prepared(host, node):
    for port in node.ports[len(node.inputs) :]:
        words = [len(node.inputs), len(node.ports) - len(node.inputs)]
        for other in node.ports:
            shape = node.shape_of(other)
            words += [
                "null",
                node.type_of(other),
                len(shape),
                *(shape if other != port else (shape[0] + 1, *shape[1:])),
            ]
        assert f"tensor '{port.name}'" in host.refused("shape_change", node.op.name, *words)


@ALL
@pytest.mark.parametrize("extent", [-1, 0, 1 << 31, -(1 << 62)])
def test_impossible_extents_are_refused(host, node, extent):
    shape = (extent, *node.shape_of(node.inputs[0])[1:])
    words = ranges(node.ranges(**{node.inputs[0].name: shape}), len(node.inputs))
    assert node.op.name in host.refused("configure", node.op.name, *words)


def test_query_heads_must_be_a_multiple_of_the_kv_heads(host):
    node = NODES[1]
    for heads, good in ((2, True), (32, True), (3, False), (34, False)):
        shape = (2, heads, 3, 64)
        words = ranges(node.ranges(query=shape, output=shape), len(node.inputs))
        assert (host.call("configure", node.op.name, *words)["status"] == 0) is good


def workspace(host, node, **sizes):
    case = {"S": 3, "NB": 5, "B": 2} | sizes
    shapes = {}
    for port in node.ports:
        known = node.shape_of(port)
        shapes[port.name] = tuple(case.get(symbol, extent) for symbol, extent in zip(port.shape, known, strict=True))
    return host.ok("workspace", node.op.name, *ranges(node.ranges(**shapes), len(node.inputs)))["bytes"]


@ALL
def test_workspace_of_a_profile_suffices_for_every_smaller_call(host, node):
    sizes = (1, 2, 15, 16, 17, 33, 64, 200)
    needs = [workspace(host, node, S=tokens) for tokens in sizes]
    assert needs == sorted(needs)
    assert workspace(host, node, B=4, S=64) >= workspace(host, node, B=1, S=64)
    assert workspace(host, node, NB=64, S=64) >= workspace(host, node, NB=5, S=64)


@pytest.mark.parametrize("tokens", [1, 16, 17, 64])
def test_workspace_is_what_the_c_abi_asks_for(built, host, tokens):
    node, library = NODES[1], Library(built.library)
    config = config_struct(node.config, 64, "fp16")
    cache = structs.Cache(batch=2, kv_heads=2, capacity_blocks=node.case.capacity_blocks)
    needs = library.size_of("innerq_attend_workspace_bytes", config, cache, node.case.heads, min(tokens, 16))
    if tokens > 16:
        room = node.config.window_tokens + 32 * node.case.capacity_blocks
        needs = max(needs, library.size_of("innerq_prefill_workspace_bytes", config, cache, room))
    assert workspace(host, node, S=tokens) == needs
