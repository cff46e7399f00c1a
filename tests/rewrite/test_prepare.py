"""The form for TensorRT-RTX: fewer nodes, no functions, the same numbers; its own parser and builder take it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from innerq_export.artifacts import Graph
from innerq_export.rewrite import prepare_for_rtx, rewrite
from innerq_export.rewrite.functions import append_function, attention_function
from innerq_export.rewrite.geometry import Geometry
from innerq_export.spec import MODES, CacheConfig
from tests.rewrite.network_run import Network
from tests.rewrite.one_layer import one_layer_model

SMALL = CacheConfig(sink=3, recent=10)


def test_prepared_networks_compute_the_same(llama: Callable[[str], Graph]) -> None:
    plain, _ = rewrite(llama("float16"), SMALL, attention_flavour="attention")
    prepared = prepare_for_rtx(rewrite(llama("float16"), SMALL, attention_flavour="attention")[0])
    rng = np.random.default_rng(0)
    networks = [Network(model, 2) for model in (plain, prepared)]
    for new in ([50, 37], [1, 1], [3, 2], [1, 0]):
        ids = rng.integers(0, 256, (2, max(new)))
        expected, got = (network.step(ids, new) for network in networks)
        for name, array in expected.items():
            assert np.array_equal(array, got[name]), name


def test_what_layers_share_is_computed_once(llama: Callable[[str], Graph]) -> None:
    model = rewrite(llama("float16"), SMALL, attention_flavour="attention")[0]
    prepare_for_rtx(model)
    assert not model.functions
    names = Counter(node.name for node in model.graph)
    assert max(names.values()) == 1
    counts = Counter(node.op_type for node in model.graph)
    assert counts["Attention"] == 2
    assert counts["ScatterND"] == 8
    assert counts["Range"] <= 5, "each layer counts tokens and blocks for itself"
    assert counts["Shape"] <= 5, "each layer asks its own tensors for sizes"


def layer_for_rtx(config: CacheConfig) -> ir.Model:
    geometry = Geometry(4, 2, 64, 0.125, ir.DataType.FLOAT16)
    functions = [append_function(config, geometry), attention_function(config, geometry, "attention")]
    return prepare_for_rtx(one_layer_model(config, geometry, functions))


@pytest.mark.parametrize("mode", MODES)
def test_the_parser_of_tensorrt_rtx_takes_every_mode(mode: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    model = layer_for_rtx(SMALL.replace(key_mode=mode, value_mode=mode))
    assert parser.parse(ir.to_proto(model).SerializeToString()), parser.get_error(0).desc()
    assert network.num_outputs == len(model.graph.outputs)


def test_tensorrt_rtx_builds_a_layer_with_a_profile_for_prompts_and_one_for_decoding() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(ir.to_proto(layer_for_rtx(SMALL.replace(value_mode="hybrid"))).SerializeToString())
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    for tokens in (64, 1):
        profile = builder.create_optimization_profile()
        for tensor in (network.get_input(index) for index in range(network.num_inputs)):
            largest = {"B": 4, "S": tokens, "NB": 16}
            sizes = [
                [
                    size if size >= 0 else pick(largest[tensor.get_dimension_name(axis)])
                    for axis, size in enumerate(tensor.shape)
                ]
                for pick in (lambda _: 1, lambda most: (most + 1) // 2, lambda most: most)
            ]
            profile.set_shape(tensor.name, *sizes)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    assert plan.nbytes > 100_000
