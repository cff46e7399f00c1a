from __future__ import annotations

import pytest

from innerq_export.bench.peers.paper import PaperTiming, parse, run_folder
from innerq_export.errors import ConfigError


def program(folder, name, script, mode=0o755):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(mode)


def test_lines_of_the_speed_test_are_read_and_others_ignored():
    text = "hello\nQK^T,N:32768,int3_sym_headdim,Latency:47.25\nAV,N:4096,fp16,Latency:8\n"
    assert parse(text) == [
        PaperTiming("QK^T", 32768, "int3_sym_headdim", 47.25),
        PaperTiming("AV", 4096, "fp16", 8.0),
    ]


def test_every_executable_of_the_folder_is_run(tmp_path):
    program(tmp_path, "b", 'echo "AV,N:1,x,Latency:2.5"')
    program(tmp_path, "a", 'echo "QK^T,N:1,y,Latency:1.5"')
    program(tmp_path, "notes.txt", 'echo "AV,N:1,z,Latency:9"', mode=0o644)
    assert [timing.kernel for timing in run_folder(tmp_path)] == ["y", "x"]


def test_a_folder_without_programs_or_a_silent_program_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no programs"):
        run_folder(tmp_path)
    program(tmp_path, "broken", "echo CUDA Error >&2; exit 1")
    with pytest.raises(ConfigError, match="CUDA Error"):
        run_folder(tmp_path)
