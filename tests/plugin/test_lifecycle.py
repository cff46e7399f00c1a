"""Clones, serialisation, and what a plugin says of itself."""

import pytest

from innerq_export.spec import PRESETS, SPEC_VERSION
from innerq_export.spec.ops import attributes_of
from tests.plugin.host import fields, ranges
from tests.plugin.ports import NODES

ALL = pytest.mark.parametrize("node", NODES, ids=lambda node: node.op.name)


def create(host, node, name="p", config=None, scale=0.125):
    host.ok("create", name, node.op.name, "build", *fields(attributes_of(node.op, config or node.config, scale)))


@ALL
@pytest.mark.parametrize("preset", PRESETS)
def test_serialised_fields_make_an_equal_plugin(host, node, preset):
    create(host, node, config=PRESETS[preset])
    host.ok("recreate", "p", "again", "runtime", 0)
    assert host.ok("describe", "again") == host.ok("describe", "p")


@ALL
def test_another_contract_version_is_refused_with_the_remedy(host, node):
    create(host, node)
    message = host.refused("recreate", "p", "again", "runtime", SPEC_VERSION + 1)
    assert f"contract version {SPEC_VERSION + 1}" in message and "innerq-export build" in message


@ALL
def test_clones_live_on_without_their_source(host, node):
    create(host, node)
    before = host.ok("describe", "p")
    host.ok("clone", "p", "q")
    host.ok("attach", "q", "r")
    host.ok("destroy", "p")
    host.ok("destroy", "q")
    assert host.ok("describe", "r") == before
    host.ok("configure", "r", *ranges(node.ranges(), len(node.inputs)))


@ALL
def test_the_metadata_states_configuration_and_build(host, node):
    create(host, node)
    answer = host.ok("describe", "p")
    assert (answer["name"], answer["version"], answer["namespace"]) == (node.op.name, "1", "innerq")
    assert answer["build_interface"] == 2
    for part in (
        "spec 1",
        "keys 3-bit symmetric_full",
        "key_norm prefill",
        "sink 32",
        "recent 96",
        "library ",
        "TensorRT",
    ):
        assert part in answer["metadata"]


@ALL
def test_the_timing_cache_tells_configurations_apart(host, node):
    seen = set()
    for name, config in PRESETS.items():
        create(host, node, name, config)
        seen.add(host.ok("describe", name)["timing_cache_id"])
    assert len(seen) == len(PRESETS)


@ALL
def test_only_the_default_tactic_exists(host, node):
    create(host, node)
    host.ok("tactic", "p", 0)
    assert "tactic" in host.refused("tactic", "p", 7)
