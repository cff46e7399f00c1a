"""A cache folder of the tests' own: history is written there, the demo model is made there once."""

import pytest

from innerq_export.engine import BuildOptions, BuildRequest
from innerq_export.plan import make_plan


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache_folder, monkeypatch):
    monkeypatch.setenv("INNERQ_EXPORT_CACHE", str(cache_folder))


@pytest.fixture
def plan(tmp_path):
    """Plan a build of the demo model, or of another `model`, into a folder of this test."""

    def make(
        model="llama",
        card=None,
        memory=None,
        compute_capabilities=(),
        split_profiles=False,
        strip_weights=False,
        **choices,
    ):
        options = BuildOptions(compute_capabilities, split_profiles=split_profiles, strip_weights=strip_weights)
        return make_plan(BuildRequest(str(model), tmp_path / "engine", options=options, **choices), card, memory)

    return make
