"""Hold every C++ and CUDA file in plugins/ and examples/ to .clang-format; --fix rewrites them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENDINGS = {".h", ".hpp", ".cuh", ".cpp", ".cu"}


def main() -> int:
    files = sorted(
        str(path)
        for folder in ("plugins", "examples", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in ENDINGS
    )
    if not files:
        return 0
    mode = ["-i"] if "--fix" in sys.argv else ["--dry-run", "--Werror"]
    return subprocess.run(
        [str(Path(sys.executable).parent / "clang-format"), "--style=file", *mode, *files], check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
