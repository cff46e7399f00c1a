"""The plugin lowering of a decoder is what TensorRT's parser turns into this plugin."""

import re
import subprocess
import sys

import onnx
import pytest

from innerq_export.doctor.nodes import check_nodes
from innerq_export.doctor.plugin import find_library
from tests.plugin.conftest import ROOT
from tests.plugin.host import fields


def innerq_nodes(model):
    return [node for node in model.graph.node if node.domain == "innerq"]


@pytest.fixture(scope="module")
def model(plugin_onnx):
    return onnx.load(plugin_onnx.path, load_external_data=False)


def attributes(node):
    values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def test_every_node_names_the_creator_and_its_fields(host, model):
    nodes = innerq_nodes(model)
    assert [node.op_type for node in nodes] == ["InnerQAppend", "InnerQAttention"] * 2
    for node in nodes:
        stated = attributes(node)
        found = stated.pop("plugin_namespace"), stated.pop("plugin_version")
        host.ok("create", "p", node.op_type, "build", *fields(stated))
        plugin = host.ok("describe", "p")
        assert found == (plugin["namespace"], plugin["version"])


def test_every_cache_input_has_one_consumer_and_its_output_is_the_alias(host, model):
    for node in innerq_nodes(model)[::2]:
        host.ok(
            "create",
            "p",
            node.op_type,
            "build",
            *fields({k: v for k, v in attributes(node).items() if "plugin" not in k}),
        )
        aliases = [int(index) for index in host.ok("describe", "p")["aliases"]]
        for output, index in zip(node.output, aliases, strict=True):
            past = node.input[index]
            assert output == past.replace("past_", "present_", 1)
            assert sum(past in other.input for other in model.graph.node) == 1
            assert output in {value.name for value in model.graph.output}


def test_the_example_in_the_plugins_readme_runs(tmp_path, built):
    """Its ONNX and this library are what `doctor` is told to examine there."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "plugins" / "trt" / "README.md").read_text(), re.S)
    subprocess.run([sys.executable, "-c", block], cwd=tmp_path, check=True, capture_output=True)
    library, _ = find_library(built.library)
    findings = list(check_nodes(tmp_path / "plugin-onnx" / "model.onnx", library))
    assert [finding.state for finding in findings] == ["ok", "ok"]
