"""Exit codes and error texts: a user's mistake ends with its fix, never with a traceback."""

import errno
import subprocess
import sys

import click
import pytest

from innerq_export.cli import main as entry
from innerq_export.errors import CheckpointError, EnvironmentMismatchError, OutOfMemoryError, ParityError


def innerq_export(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "innerq_export.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def exit_code_of(monkeypatch, error: BaseException) -> int:
    @click.command(name="build")
    def failing() -> None:
        raise error

    monkeypatch.setattr(entry.LazyGroup, "get_command", lambda self, ctx, name: failing)
    monkeypatch.setattr(sys, "argv", ["innerq-export", "build"])
    with pytest.raises(SystemExit) as exit_info:
        entry.main()
    return exit_info.value.code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CheckpointError("no"), 1),
        (click.UsageError("no"), 2),
        (ParityError("no"), 3),
        (EnvironmentMismatchError("no"), 4),
        (OutOfMemoryError("no"), 5),
        (MemoryError(), 5),
        (KeyboardInterrupt(), 130),
        (click.exceptions.Exit(7), 7),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(monkeypatch, error, code):
    assert exit_code_of(monkeypatch, error) == code


def test_what_the_system_refuses_is_told_with_its_place(monkeypatch, capsys):
    full = OSError(errno.ENOSPC, "No space left on device", "engines/mine/parity.json")
    assert exit_code_of(monkeypatch, full) == 1
    told = capsys.readouterr().err
    assert "engines/mine/parity.json: No space left on device" in told and "make room" in told


def test_a_full_stdout_shows_no_traceback():
    command = [sys.executable, "-m", "innerq_export.cli.main", "plan", "llama"]
    with open("/dev/full", "wb") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 1
    assert "No space left on device" in result.stderr and "Traceback" not in result.stderr


def test_an_error_of_ours_is_not_hidden(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        exit_code_of(monkeypatch, ZeroDivisionError())


def test_a_mistyped_command_gets_the_nearest_one():
    result = innerq_export("buld", "llama")
    assert result.returncode == 2
    assert "did you mean 'build'?" in result.stderr


@pytest.mark.parametrize("command", list(entry.COMMANDS))
def test_every_command_explains_itself(command):
    result = innerq_export(command, "--help")
    assert result.returncode == 0
    assert "Usage:" in result.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("inspect", "nowhere"), "innerq-export build"),
        (("run", "nowhere", "-p", "x"), "innerq-export build"),
        (("build", "nowhere/at-all.onnx"), "nowhere"),
        (("build", "llama", "--preset", "balancd"), "did you mean 'balanced'?"),
        (("build", "llama", "--cache", "sinks=3"), "did you mean 'sink'?"),
        (("build", "llama", "--backend", "tensor-rtx"), "tensorrt-rtx"),
        (("plan", "nowhere"), "its name ends with .onnx"),
        (("parity", "nowhere"), "innerq-export build"),
        (("bench", "draw", "/etc/hostname", "--output", "figures"), "decode.json"),
        (("doctor", "nowhere"), "model.plugin.onnx or model.onnx"),
    ],
)
def test_a_mistake_names_its_fix_and_shows_no_traceback(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = innerq_export(*words)
    assert result.returncode == 1
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.onnx"))
