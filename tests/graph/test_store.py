"""Traced graphs are kept for what they were traced from, found again bit for bit, and never believed when damaged."""

import onnx_ir as ir
import pytest

from innerq_export.checkpoint.demo import cache_root
from innerq_export.graph import TraceStore, export_graph
from innerq_export.graph import store as store_module

CONFIG = {"model_type": "llama", "hidden_size": 8}


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("INNERQ_EXPORT_CACHE", str(tmp_path))


def graph():
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["B", 8]))
    weight = ir.Value(name="w", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([8]))
    node = ir.node("Add", [x, weight], name="add")
    return ir.Model(ir.Graph([x, weight], node.outputs, nodes=[node], opset_imports={"": 23}), ir_version=10)


def text(model):
    return ir.to_proto(model).SerializeToString(deterministic=True)


class Tracer:
    calls = 0

    def __call__(self):
        self.calls += 1
        return graph()


def places():
    return list((cache_root() / "graphs").glob("*"))


def test_the_second_time_nothing_is_traced_and_the_graph_is_equal():
    tracer, store = Tracer(), TraceStore()
    assert not store.has(CONFIG, "float16")
    first = store.traced(CONFIG, "float16", tracer)
    second = TraceStore().traced(CONFIG, "float16", tracer)
    assert store.has(CONFIG, "float16")
    assert tracer.calls == 1
    assert text(first) == text(second) == text(graph())


def test_what_was_spared_is_counted(monkeypatch):
    clock = iter([0.0, 12.5])
    monkeypatch.setattr(store_module.time, "monotonic", lambda: next(clock))
    store = TraceStore()
    store.traced(CONFIG, "float16", graph)
    assert store.saved == 0
    store.traced(CONFIG, "float16", graph)
    assert store.saved == 12.5


@pytest.mark.parametrize("change", ["config", "dtype", "code", "library"])
def test_another_input_is_traced_anew(change, monkeypatch):
    tracer = Tracer()
    TraceStore().traced(CONFIG, "float16", tracer)
    if change == "code":
        monkeypatch.setattr(store_module, "code_digest", lambda: "another")
    if change == "library":
        monkeypatch.setattr(store_module, "versions_of", lambda *_: {"torch": "another"})
    config = CONFIG | {"hidden_size": 16} if change == "config" else CONFIG
    TraceStore().traced(config, "float32" if change == "dtype" else "float16", tracer)
    assert tracer.calls == 2


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[:-1], lambda text: text.replace(b"add", b"sub"), lambda text: b"", lambda text: b"[]\n" + text],
    ids=["cut", "changed", "empty", "another form"],
)
def test_a_damaged_file_is_traced_anew_and_mended(damage):
    tracer = Tracer()
    TraceStore().traced(CONFIG, "float16", tracer)
    (place,) = places()
    place.write_bytes(damage(place.read_bytes()))
    assert text(TraceStore().traced(CONFIG, "float16", tracer)) == text(graph())
    TraceStore().traced(CONFIG, "float16", tracer)
    assert tracer.calls == 2


def test_an_unwanted_store_and_one_that_cannot_be_written_keep_nothing(tmp_path, monkeypatch):
    tracer = Tracer()
    TraceStore(wanted=False).traced(CONFIG, "float16", tracer)
    assert places() == []
    (tmp_path / "file").touch()
    monkeypatch.setenv("INNERQ_EXPORT_CACHE", str(tmp_path / "file"))
    assert text(TraceStore().traced(CONFIG, "float16", tracer)) == text(graph())
    assert tracer.calls == 2


def test_only_the_latest_are_kept(monkeypatch):
    monkeypatch.setattr(store_module, "MOST_GRAPHS", 3)
    tracer = Tracer()
    for size in range(5):
        TraceStore().traced({"size": size}, "float16", tracer)
        TraceStore().traced({"size": 0}, "float16", tracer)  # used every time, so it stays
    assert tracer.calls == 5
    assert [size for size in range(5) if TraceStore().has({"size": size}, "float16")] == [0, 3, 4]


def test_a_graph_from_the_store_exports_as_a_traced_one(tiny_checkpoint, tiny_graph):
    for _ in range(2):
        store = TraceStore()
        found = export_graph(tiny_checkpoint, store=store)
        assert found.digest == tiny_graph.digest
        assert text(found.model) == text(tiny_graph.model)
    assert store.saved > 0
