"""Every fenced block of README.md runs, in order, in a fresh folder; the two setup commands are held to .ci/run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = [(language, body) for language, body in re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)]
SETUP = {"make build\n", "make test\n"}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def run(language: str, body: str, folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", body] if language == "bash" else [sys.executable, "-c", body]
    settings = {"cwd": folder, "env": environment, "timeout": 600}
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)


def test_every_block_says_what_runs_it():
    assert BLOCKS
    assert {language for language, _ in BLOCKS} <= {"bash", "python"}


def test_the_two_setup_commands_are_what_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    for command in SETUP:
        assert ("bash", command) in BLOCKS
        assert command.strip() in ci


@pytest.mark.parametrize("position", [n for n, (_, body) in enumerate(BLOCKS) if body not in SETUP])
def test_block_runs(position, workplace):
    language, body = BLOCKS[position]
    result = run(language, body, workplace)
    assert result.returncode == 0, f"{body}\n{result.stdout}\n{result.stderr}"
