"""The paper's speed tests: what is run, what is read, and how each mistake is told; stand-ins in sh, no card."""

from __future__ import annotations

import json
import time

import pytest
from click.testing import CliRunner

from innerq_export.bench import kernels
from innerq_export.bench.kernels import Options, run
from innerq_export.bench.markdown import markdown
from innerq_export.bench.peers import paper
from innerq_export.bench.peers.paper import PaperTiming, parse, run_folder
from innerq_export.cli.bench import command
from innerq_export.errors import ConfigError, UserError
from innerq_export.progress import Silent


def program(folder, name, script, mode=0o755):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(mode)


def test_lines_of_the_speed_tests_are_read_and_others_ignored():
    text = "hello\nQK^T,N:32768,int3_sym_headdim,Latency:47.25\nAV,N:4096,fp16,Latency:8\nAV,N:1,x,Latency:1.5e+06\n"
    assert parse(text) == [
        PaperTiming("QK^T", 32768, "int3_sym_headdim", 47.25),
        PaperTiming("AV", 4096, "fp16", 8.0),
        PaperTiming("AV", 1, "x", 1.5e6),
    ]
    assert parse("AV,N:4096,fp16,Latency:nan\nAV,N:4096,Latency:1\n") == []


def test_the_one_that_quantises_says_its_tokens_above():
    text = "N: 32 NUM_HEADS: 32 HEAD_DIM: 128\n-----\n3-Bit Symmetric Time:          2.75 us/iter\n"
    text += "TurboQuantMSE 4-Bit Time:      11 us/iter\n"
    assert parse(text) == [
        PaperTiming("quantise", 32, "3-Bit Symmetric", 2.75),
        PaperTiming("quantise", 32, "TurboQuantMSE 4-Bit", 11.0),
    ]


def test_every_benchmark_of_a_folder_without_sources_is_run(tmp_path):
    program(tmp_path, "benchmark_b", 'echo "AV,N:1,x,Latency:2.5"')
    program(tmp_path, "benchmark_a", 'echo "QK^T,N:1,y,Latency:1.5"')
    program(tmp_path, "other", f"touch {tmp_path}/other_ran")
    program(tmp_path, "benchmark.txt", 'echo "AV,N:1,z,Latency:9"', mode=0o644)
    told = run_folder(tmp_path, None)
    assert [timing.kernel for timing in told.timings] == ["y", "x"]
    assert "built by the user" in told.made
    assert not (tmp_path / "other_ran").exists()


def test_a_folder_that_is_not_there_or_has_nothing_is_refused(tmp_path):
    for folder, words in ((tmp_path / "gone", r"no folder .*gone"), (tmp_path, "nothing to compile or run")):
        with pytest.raises(ConfigError, match=rf"(?s){words}.*git clone"):
            run_folder(folder, None)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo CUDA Error: no device >&2; exit 3", "failed.*status 3: CUDA Error: no device"),
        ("echo hello", "printed no timing.*hello"),
        ("true", "printed no timing.*nothing"),
    ],
)
def test_a_program_that_fails_or_says_nothing_is_told_with_its_words(tmp_path, script, words):
    program(tmp_path, "benchmark_broken", script)
    with pytest.raises(UserError, match=rf"(?s)broken {words}.*leave --paper-kernels out"):
        run_folder(tmp_path, None)


def test_what_is_no_program_is_told(tmp_path):
    (tmp_path / "benchmark_broken").write_bytes(b"\x7fELF, but not really")
    (tmp_path / "benchmark_broken").chmod(0o755)
    with pytest.raises(UserError, match="cannot be run"):
        run_folder(tmp_path, None)


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(paper, "TIMEOUT_SECONDS", 0.3)
    program(tmp_path, "benchmark_endless", f"(sleep 2; touch {tmp_path}/left) & sleep 60")
    start = time.monotonic()
    with pytest.raises(UserError, match=r"endless did not end"):
        run_folder(tmp_path, None)
    assert time.monotonic() - start < 2
    time.sleep(2.2 - (time.monotonic() - start))
    assert not (tmp_path / "left").exists()


def test_the_times_stand_in_the_report(host_library, tmp_path):
    program(tmp_path, "benchmark_a", 'echo "QK^T,N:4096,int3,Latency:5.5"')
    report = run(Options(("smoke",), ("base",), False, tmp_path, host_library.path, "cpu"), Silent())
    assert json.loads(json.dumps(report.to_dict()))["paper"] == [
        {"product": "QK^T", "tokens": 4096, "kernel": "int3", "us": 5.5}
    ]
    page = markdown(report)
    assert "| QK^T | 4096 | int3 | 5.5 |" in page
    assert "Made of: programs built by the user." in page


def test_a_mistake_is_told_before_anything_is_measured(host_library, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "_WORK", {})
    words = ["kernels", "--shapes", "smoke", "--device", "cpu", "--library", str(host_library.path)]
    result = CliRunner().invoke(command, [*words, "--paper-kernels", str(tmp_path / "gone")])
    assert isinstance(result.exception, ConfigError)
