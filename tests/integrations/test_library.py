"""Where the library is looked for, and what is said of each place that does not have it."""

from __future__ import annotations

import subprocess

import pytest

from innerq_export.errors import EnvironmentMismatchError
from innerq_export.integrations.library import load
from innerq_export.integrations.resolve import candidates


def test_build_facts(host_library):
    assert host_library.is_host
    assert host_library.build.architectures == "host"
    assert host_library.build.spec_version == 1


def test_every_candidate_is_named_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.delenv("INNERQ_LIBRARY", raising=False)
    (tmp_path / "libinnerq.so").write_text("no library")
    with pytest.raises(EnvironmentMismatchError) as caught:
        load("cuda", build_dir=tmp_path)
    text = str(caught.value)
    assert "libinnerq_trt.so (build folder): no such file" in text
    assert "libinnerq.so (build folder): cannot be loaded" in text
    assert "(installed package)" in text
    assert "innerq-export plugin build" in text


def test_a_named_library_is_the_only_candidate(tmp_path, monkeypatch):
    named = tmp_path / "mine.so"
    monkeypatch.setenv("INNERQ_LIBRARY", str(named))
    assert [c.path for c in candidates("cuda")] == [named]
    assert next(c.path for c in candidates("cuda", tmp_path)).parent == tmp_path
    assert named not in [c.path for c in candidates("host")]


def test_the_wrong_kind_is_refused(host_library):
    with pytest.raises(EnvironmentMismatchError, match="is the host build"):
        load("cuda", host_library.path)


SKETCH = """
#include "HEADER"
#define ANSWER { return INNERQ_OK; }
const char *innerq_status_string(innerq_status s) { (void)s; return ""; }
const char *innerq_last_message(void) { return ""; }
innerq_status innerq_build_info(innerq_build *b) {
    b->spec_version = 7; b->cuda_version = 0; b->git_hash = "x"; b->architectures = "host"; return INNERQ_OK; }
"""


def test_another_contract_is_refused_with_the_mending_command(tmp_path):
    from innerq_export.integrations.structs import FUNCTIONS
    from tests.integrations.test_structs import HEADER, TEXT

    source = SKETCH.replace("HEADER", str(HEADER))
    for name in FUNCTIONS:
        if name != "innerq_build_info":
            start = TEXT.index(f"innerq_status {name}(")
            source += TEXT[start : TEXT.index(";", start)] + " ANSWER\n"
    (tmp_path / "old.c").write_text(source)
    library = tmp_path / "old.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-w", str(tmp_path / "old.c"), "-o", str(library)], check=True)
    with pytest.raises(EnvironmentMismatchError, match="contract v7, this package speaks v1; build it again"):
        load("host", library)
    subprocess.run(["cc", "-shared", "-fPIC", "-xc", "/dev/null", "-o", str(tmp_path / "empty.so")], check=True)
    with pytest.raises(EnvironmentMismatchError, match="innerq_build_info"):
        load("host", tmp_path / "empty.so")
