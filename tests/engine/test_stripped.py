"""Networks without their weights: what becomes an input, what stays, and what NVIDIA's builder makes of them."""

import onnx
import pytest

from innerq_export.engine import BACKENDS, BuildOptions, default_profiles
from innerq_export.engine.stripped import location_of, strip_weights
from innerq_export.errors import ConfigError
from innerq_export.progress import Silent
from tests.engine.real import SMALL_WINDOW, beside
from tests.engine.toy import toy_onnx


@pytest.fixture
def network(tiny_graph, tiny_engine, tmp_path):
    return beside(tiny_graph, tiny_engine, tmp_path / "scratch")


def loaded(path):
    return onnx.load(path, load_external_data=False)


def matrices(path):
    weights = loaded(path).graph.initializer
    return {weight.name for weight in weights if weight.data_location and len(weight.dims) > 1}


def test_every_matrix_becomes_an_input_and_nothing_else_changes(network, tiny_engine):
    stripped = strip_weights(network.path, tiny_engine / "model.onnx")
    before, after = loaded(network.path).graph, loaded(stripped).graph
    added = {value.name: value.type.tensor_type for value in after.input[len(before.input) :]}
    assert set(added) == matrices(network.path)
    assert len(added) == 2 * 7 + 1
    shapes = {name: [dim.dim_value for dim in kind.shape.dim] for name, kind in added.items()}
    assert shapes == {w.name: list(w.dims) for w in before.initializer if w.name in added}
    assert [w.name for w in after.initializer] == [w.name for w in before.initializer if w.name not in added]
    assert list(after.node) == list(before.node)


def test_a_weight_that_lies_elsewhere_stays(network, tiny_engine, tmp_path):
    """As one does that was changed for TensorRT-RTX: bytes of its own under the name of the original."""
    model = loaded(network.path)
    moved = next(weight for weight in model.graph.initializer if weight.name in matrices(network.path))
    next(entry for entry in moved.external_data if entry.key == "offset").value = str(location_of(moved)[1] + 2)
    onnx.save(model, network.path)
    stripped = strip_weights(network.path, tiny_engine / "model.onnx")
    assert matrices(stripped) == {moved.name}


def test_a_network_without_common_weights_is_left_alone(network, tmp_path):
    toy = toy_onnx(tmp_path / "toy.onnx").path
    assert strip_weights(network.path, toy) is None
    assert not list(tmp_path.rglob(".stripped*"))


def build(network, engine, folder, **options):
    profiles = default_profiles(network.shape, SMALL_WINDOW, 2, 256, split=False)
    folder.mkdir()
    (folder / "model.onnx").hardlink_to(engine / "model.onnx")
    for file in network.weights:
        (folder / file.name).hardlink_to(engine / file.name)
    with Silent().stage("") as step:
        return BACKENDS["tensorrt-rtx"].build(network, folder, profiles, BuildOptions(**options), step)


def test_the_plan_is_smaller_by_the_weights_and_says_where_they_are(network, tiny_engine, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    whole, stripped = (
        build(network, tiny_engine, tmp_path / str(strip), strip_weights=strip) for strip in (False, True)
    )
    plans = [(tmp_path / str(strip) / "model.engine").read_bytes() for strip in (False, True)]
    weight = next(w for w in loaded(network.path).graph.initializer if w.name.endswith("0.self_attn.o_proj.weight"))
    name, offset = location_of(weight)
    some = (tiny_engine / name).read_bytes()[offset : offset + 4096]
    assert [some in plan for plan in plans] == [True, False]
    assert len(plans[0]) > len(plans[1])
    assert [built.details["weights"] for built in (whole, stripped)] == ["", "model.onnx"]
    assert not list((tmp_path / "scratch").glob(".stripped*"))


def test_a_plan_with_the_plugin_keeps_its_weights():
    with pytest.raises(ConfigError, match="tensorrt-rtx for --strip-weights"):
        BACKENDS["tensorrt"].check(BuildOptions(strip_weights=True))
