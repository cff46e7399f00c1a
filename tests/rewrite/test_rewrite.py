"""A whole decoder rewritten: its interface is that of the architecture, and it computes what it computed before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch

from innerq_export.artifacts import Graph
from innerq_export.errors import ConfigError, RewriteError
from innerq_export.reference import Blocks, Cache, append, empty_cache
from innerq_export.rewrite import rewrite
from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import APPEND, ATTENTION, config_of
from tests.rewrite.network_run import Network, run_given
from tests.rewrite.one_layer import assert_same_cache

SMALL = CacheConfig(sink=3, recent=10, value_mode="hybrid", value_bits=2)
LOGICAL = ["window", "key_norm", "key_codes", "key_scales", "value_codes", "value_scales", "value_zeros"]
PACKED = ["window", "key_norm", "blocks"]


def innerq_nodes(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.domain == "innerq"]


@pytest.mark.parametrize(("lowering", "parts"), [("native", LOGICAL), ("plugin", PACKED)])
def test_interface(llama: Callable[[str], Graph], lowering: str, parts: list[str]) -> None:
    model, report = rewrite(llama("float16"), SMALL, lowering)
    cache = [f"{part}_{layer}" for layer in (0, 1) for part in parts]
    inputs = ["input_ids", "position_ids", "past_length", "new_length", *(f"past_{name}" for name in cache)]
    assert [value.name for value in model.graph.inputs] == inputs
    assert [value.name for value in model.graph.outputs] == ["logits", *(f"present_{name}" for name in cache)]
    assert (report.layers, report.counts["InnerQLayers"], report.lowering) == (2, 2, lowering)
    assert bool(model.functions) == (lowering == "native")
    for value in model.graph.inputs[4:]:
        present = next(output for output in model.graph.outputs if output.name == value.name.replace("past", "present"))
        assert (present.shape, present.dtype) == (value.shape, value.dtype)


@pytest.mark.parametrize("lowering", ["native", "plugin"])
def test_nodes_state_their_configuration_and_caches_have_one_reader(
    llama: Callable[[str], Graph], lowering: str
) -> None:
    model, _ = rewrite(llama("float16"), SMALL, lowering)
    nodes = innerq_nodes(model)
    assert [node.op_type for node in nodes] == [APPEND.name, ATTENTION.name] * 2
    for node in nodes:
        stated = {name: attr.value for name, attr in node.attributes.items() if not name.startswith("plugin_")}
        assert config_of(stated) == SMALL
        assert ("scale" in stated) == (node.op_type == ATTENTION.name)
    for value in model.graph.inputs[4:]:
        assert [use.node.op_type for use in value.uses()] == [APPEND.name]


def test_the_graph_that_is_given_stays_as_it_is(llama: Callable[[str], Graph]) -> None:
    graph = llama("float16")
    before = ir.to_proto(graph.model).SerializeToString(deterministic=True)
    rewrite(graph, SMALL)
    assert ir.to_proto(graph.model).SerializeToString(deterministic=True) == before


def test_logits_of_the_last_token_are_those_of_all(llama: Callable[[str], Graph]) -> None:
    ids = np.random.default_rng(0).integers(0, 256, (3, 6))
    last, every = (
        Network(rewrite(llama("float32"), SMALL, logits=kind)[0], 3).step(ids, [6, 2, 0])["logits"]
        for kind in ("last", "all")
    )
    assert last.shape[1] == 1
    assert every.shape[1] == 6
    for row, token in ((0, 5), (1, 1), (2, 0)):
        assert np.allclose(last[row, 0], every[row, token], rtol=1e-5, atol=1e-5)


def test_nothing_quantised_is_the_model_as_it_was(llama: Callable[[str], Graph]) -> None:
    graph = llama("float32")
    network = Network(rewrite(graph, CacheConfig(recent=200), logits="all")[0], batch=2)
    ids = np.random.default_rng(0).integers(0, 256, (2, 40))
    parts = [
        network.step(ids[:, start:end], [end - start] * 2)["logits"] for start, end in ((0, 33), (33, 34), (34, 40))
    ]
    expected = run_given(graph.model, ids)
    assert np.linalg.norm(np.concatenate(parts, 1) - expected) < 1e-5 * np.linalg.norm(expected)


def test_two_hundred_ragged_steps_keep_every_layer_equal_to_the_reference(llama: Callable[[str], Graph]) -> None:
    """The reference is fed the keys and values that the network itself computes, layer by layer."""
    model, _ = rewrite(llama("float16"), SMALL)
    for layer, node in enumerate(node for node in innerq_nodes(model) if node.op_type == APPEND.name):
        for name, value in zip(("key", "value"), node.inputs[:2], strict=True):
            value.name = f"new_{name}_{layer}"
            model.graph.outputs.append(value)
    network, rng = Network(model, batch=2, capacity_blocks=9), np.random.default_rng(0)
    expected = [empty_cache(SMALL, 2, 2, 64, 9) for _ in range(2)]
    for step in range(200):
        width = int(rng.choice([1, 1, 1, 1, 1, 2, 5]))
        new = [width if step % 7 else 0, int(rng.integers(0, width + 1))]
        outputs = network.step(rng.integers(0, 256, (2, width)), new)
        for layer in range(2):
            key, value = (torch.from_numpy(outputs[f"new_{name}_{layer}"]) for name in ("key", "value"))
            expected[layer] = append(expected[layer], key, value, torch.tensor(new, dtype=torch.int32))
    assert network.length_B.min() > 100
    for layer in range(2):
        parts = {name: torch.from_numpy(outputs[f"present_{name}_{layer}"]) for name in LOGICAL}
        window, key_norm = parts.pop("window"), parts.pop("key_norm")
        got = Cache(SMALL, expected[layer].length_B, window, key_norm, Blocks.of(parts))
        assert_same_cache(expected[layer], got, f"layer {layer}")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"lowering": "natve"}, "did you mean 'native'"),
        ({"logits": "first"}, "one of: all, last"),
        ({"attention_flavour": "matmull"}, "did you mean 'matmul'"),
    ],
)
def test_unknown_options_are_refused_by_name(
    llama: Callable[[str], Graph], arguments: dict[str, str], hint: str
) -> None:
    with pytest.raises(ConfigError, match=hint):
        rewrite(llama("float16"), SMALL, **arguments)


def test_a_model_is_not_rewritten_twice(llama: Callable[[str], Graph]) -> None:
    graph = llama("float16")
    model, _ = rewrite(graph, SMALL, "plugin")
    again = type(graph)(model, graph.shape, graph.dtype, graph.digest)
    with pytest.raises(RewriteError, match="already has an input 'past_length'"):
        rewrite(again, SMALL)
