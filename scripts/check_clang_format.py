"""Hold every C, C++ and CUDA file in plugins/ and examples/ to .clang-format; --fix rewrites them."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENDINGS = {".h", ".hpp", ".cuh", ".c", ".cpp", ".cu"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fix", action="store_true", help="rewrite the files")
    mode = ["-i"] if parser.parse_args().fix else ["--dry-run", "--Werror"]
    files = sorted(
        str(path)
        for folder in ("plugins", "examples", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in ENDINGS
    )
    if not files:
        return 0
    return subprocess.run(
        [str(Path(sys.executable).parent / "clang-format"), "--style=file", *mode, *files], check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
