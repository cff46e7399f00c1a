"""Whatever stands in manifest.json, reading and inspecting it ends with a value or with a user's error."""

import contextlib
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from innerq_export.engine import inspect_engine
from innerq_export.errors import UserError
from innerq_export.runtime import preflight
from tests.engine.toy import toy_engine

values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**20) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_engine(tmp_path_factory.mktemp("fuzz") / "engine")


def places(tree, path=()):
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def replaced(tree, path, value):
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = replaced(tree[path[0]], path[1:], value)
    return copy


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_manifest_breaks_the_reader(folder, data):
    path = folder / "manifest.json"
    original = path.read_text()
    tree = json.loads(original)
    place = data.draw(st.sampled_from(list(places(tree))))
    try:
        path.write_text(json.dumps(replaced(tree, place, data.draw(values))))
        for read in (inspect_engine, preflight):
            with contextlib.suppress(UserError):
                read(folder)
    finally:
        path.write_text(original)
    assert not [name for name in os.listdir(folder) if name.startswith(".")]
