"""The plugin with a fault between its enqueue and the kernels: plugin_faults.cpp, preloaded into the plugin host."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from innerq_export.parity.ops import PluginOps

SOURCE = Path(__file__).with_name("plugin_faults.cpp")


def compile_faults(folder: Path) -> Path:
    """Return the library of faults, compiled; skips where there is no C++ compiler."""
    library = folder / "plugin_faults.so"
    words = ["c++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", SOURCE, "-o", library]
    try:
        subprocess.run([*map(str, words), "-ldl"], check=True)
    except FileNotFoundError:
        pytest.skip("needs a C++ compiler")
    return library


@contextmanager
def faulty_plugin(library: Path, program: Path, faults: Path, fault: str) -> Iterator[PluginOps]:
    """Yield the plugin with `fault`, a name of tests.parity.mutations; any other name leaves it sound."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INNERQ_PLUGIN_LIBRARY", str(library))
        patch.setenv("INNERQ_PLUGIN_PROGRAM", str(program))
        patch.setenv("INNERQ_FAULT", fault)
        patch.setenv("LD_PRELOAD", str(faults))
        plugin = PluginOps()
        try:
            yield plugin
        finally:
            plugin.close()
