"""examples/c: the header is C99, the page's commands build the program, and its own check can fail."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.host_library import built_host_library

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "examples" / "c" / "README.md").read_text()
(SAYS,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
SOURCE = (ROOT / "examples" / "c" / "decode.c").read_text()
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def run(folder, source):
    """Compile as strictly as C99 allows and run."""
    library = built_host_library().path
    (folder / "decode.c").write_text(source)
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{ROOT}/plugins/launch"]
    link = [str(library), "-lm", f"-Wl,-rpath,{library.parent}", "-o", str(folder / "decode")]
    subprocess.run(["cc", *strict, str(folder / "decode.c"), *link], check=True)
    return subprocess.run([folder / "decode"], capture_output=True, text=True, check=False)


def test_the_program_is_c99_and_right(tmp_path):
    result = run(tmp_path, SOURCE)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == SAYS


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("kBlocks = 8", "kBlocks = 2", "append: INNERQ_CAPACITY_EXCEEDED: append.tokens: 250 tokens need 3 blocks"),
        (".head_dim = kDim", ".head_dim = kDim + 1", "window: INNERQ_INVALID_ARGUMENT: config.head_dim"),
        ("kSteps = 40", "kSteps = 200", "flags 1\n"),
        ("        append(&", "        if (i != 7) append(&", "MORE THAN 1%"),
        ("(kHeads / kKvHeads)", "kHeads", "MORE THAN 1%"),
    ],
)
def test_mistakes_are_told_by_the_library_or_seen_by_the_check(tmp_path, old, new, words):
    assert old in SOURCE
    result = run(tmp_path, SOURCE.replace(old, new))
    assert result.returncode == 1
    assert words in result.stderr + result.stdout


def test_the_commands_of_the_page_run(tmp_path):
    """All but the first, which every test here rests on: the library that it makes is there already."""
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    build, *others = block.splitlines()
    assert build == "innerq-export plugin build --host-only --build-dir build/host"
    for name in ("plugins", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "host").symlink_to(built_host_library().path.parent)
    command = ["bash", "-euo", "pipefail", "-c", "\n".join(others)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == SAYS
