"""The doctor on an ONNX of the plugin lowering and the library: every node has its creator, or it says why not."""

import shutil
import subprocess

import onnx
import pytest

from innerq_export.doctor import examine
from innerq_export.doctor import report as report_module
from innerq_export.doctor.nodes import check_nodes
from innerq_export.doctor.plugin import find_library

OTHER_CONTRACT = r"""
typedef struct { unsigned struct_bytes; int spec_version, cuda_version; const char *git, *architectures; } build;
extern "C" int innerq_build_info(build *b) {
    b->spec_version = 2;
    b->cuda_version = 0;
    b->git = b->architectures = "x";
    return 0;
}
extern "C" const char *innerq_trt_describe() {
    return "{\"spec_version\": 2, \"tensorrt\": \"11.1\", \"creators\": []}";
}
"""


@pytest.fixture(scope="module")
def library(built):
    found, findings = find_library(built.library)
    assert found is not None and not [finding for finding in findings if finding.state == "problem"]
    return found


def findings(path, library):
    return list(check_nodes(path, library))


def test_every_node_has_its_creator(plugin_onnx, library):
    found = findings(plugin_onnx.path, library)
    assert [(finding.name, finding.state) for finding in found] == [("InnerQAppend", "ok"), ("InnerQAttention", "ok")]
    assert all(finding.text.startswith("2 nodes: creator ") for finding in found)


def test_the_library_beside_the_model_is_found_and_a_renamed_one_is_missed(built, plugin_onnx, tmp_path, monkeypatch):
    monkeypatch.setattr(report_module, "PROBES", ())
    folder = tmp_path / "engine"
    shutil.copytree(plugin_onnx.path.parent, folder)
    (folder / "model.onnx").rename(folder / "model.plugin.onnx")
    shutil.copy(built.library, folder / "libinnerq_trt.so")
    assert not examine(folder).problems
    renamed = folder / "libinnerq_trt.so"
    renamed.rename(folder / "renamed.so")
    problems = examine(folder, library=renamed).problems
    assert len(problems) == 2 and all("innerq-export plugin build" in finding.fix for finding in problems)
    assert "no such file" in problems[0].text and "4 nodes" in problems[1].text
    assert not examine(folder, library=folder / "renamed.so").problems


def test_a_library_of_another_contract_is_named(plugin_onnx, tmp_path, built):
    source, other = tmp_path / "other.cpp", tmp_path / "libinnerq_trt.so"
    source.write_text(OTHER_CONTRACT)
    subprocess.run(["c++", "-shared", "-fPIC", str(source), "-o", str(other)], check=True)
    _, said = find_library(other)
    assert said[0].state == "problem" and "implements contract 2, this innerq-export speaks 1" in said[0].text
    assert said[0].fix == "innerq-export plugin build"


def edited(plugin_onnx, tmp_path, change):
    model = onnx.load(plugin_onnx.path, load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "InnerQAppend":
            change(node)
    path = tmp_path / "edited.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def attribute(node, name):
    return next(item for item in node.attribute if item.name == name)


EDITS = {
    "another contract": (lambda node: setattr(attribute(node, "spec_version"), "i", 2), "made for contract 2"),
    "another op": (lambda node: setattr(node, "op_type", "InnerQApend"), "no creator InnerQApend/1/innerq"),
    "another version": (lambda node: setattr(attribute(node, "plugin_version"), "s", b"2"), "InnerQAppend/2/innerq"),
    "no namespace": (
        lambda node: node.attribute.remove(attribute(node, "plugin_namespace")),
        "no creator InnerQAppend/1/",
    ),
    "a missing field": (lambda node: node.attribute.remove(attribute(node, "sink")), "sink missing"),
    "an unknown field": (lambda node: setattr(attribute(node, "sink"), "name", "sinks"), "sinks unknown"),
}


@pytest.mark.parametrize("kind", EDITS)
def test_each_mismatch_is_named_with_its_mending(plugin_onnx, library, tmp_path, kind):
    change, text = EDITS[kind]
    wrong = [
        finding for finding in findings(edited(plugin_onnx, tmp_path, change), library) if finding.state == "problem"
    ]
    assert len(wrong) == 1 and text in wrong[0].text and "2 nodes" in wrong[0].text and wrong[0].fix


def test_what_is_no_library_is_told(tmp_path):
    file = tmp_path / "libinnerq_trt.so"
    file.write_text("not a library " * 100)
    found, said = find_library(file)
    assert found is None and said[0].state == "problem" and "invalid ELF header" in said[0].text
