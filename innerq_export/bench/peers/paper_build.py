"""Compiles the paper's speed tests for a card: a program per source and number of tokens, kept in the cache folder."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from innerq_export.bench.peers.process import finish
from innerq_export.checkpoint.demo import cache_root, writing_to_cache
from innerq_export.errors import EnvironmentMismatchError, UserError
from innerq_export.integrations.toolchain import first_mistake, require_nvcc
from innerq_export.progress import Progress

ATTENTION_TOKENS = (4096, 32768, 131072)
TOKENS = {"benchmark_quantization.cu": (1, 32)}
"""Tokens of a decode step and of a flush, as the authors' own script takes them; other sources: ATTENTION_TOKENS."""
LIMIT_SECONDS = 300
_HEADERS = (".h", ".cuh", ".hpp")
_VERSION = re.compile(r"\bV(\d[\d.]*)")


@dataclass(frozen=True)
class Compiler:
    """nvcc at `path`, what it says of its version, and the compute capability (90 for sm_90) to compile for."""

    path: Path
    words: str
    architecture: int

    @property
    def version(self) -> str:
        """Return for example 13.0.88."""
        return found[1] if (found := _VERSION.search(self.words)) else "unknown"


def sources_of(folder: Path) -> list[Path]:
    """Return the .cu files of a checkout's speedtest folder, or of the folder itself; empty where neither has any."""
    places = (sorted(place.glob("*.cu")) for place in (folder / "speedtest", folder))
    return next((found for found in places if found), [])


def digest_of(sources: list[Path]) -> str:
    """Return a SHA-256 over names and bytes of the files and of the headers beside them, in hexadecimal."""
    headers = {path for source in sources for path in source.parent.iterdir() if path.suffix in _HEADERS}
    state = hashlib.sha256()
    for path in sorted({*sources, *headers}):
        state.update(f"{path.name}:{path.stat().st_size}:".encode() + path.read_bytes())
    return state.hexdigest()


def find_compiler(architecture: int | None) -> Compiler:
    """Return nvcc as `plugin build` finds it. EnvironmentMismatchError without it or (None) without a card."""
    if architecture is None:
        raise EnvironmentMismatchError(
            "the paper's kernels need a CUDA card",
            expected="a card that torch can use",
            got="a bench on the CPU",
            fix="run it on a machine with a card, or leave --paper-kernels out",
        )
    try:
        nvcc = require_nvcc()
    except EnvironmentMismatchError as error:
        raise EnvironmentMismatchError(
            "the paper's kernels are compiled with nvcc, which was not found",
            expected=error.expected,
            got=error.got,
            fix="install the CUDA toolkit (https://developer.nvidia.com/cuda-downloads), or leave --paper-kernels out",
        ) from error
    return Compiler(nvcc, _nvcc([str(nvcc), "--version"], "asking nvcc for its version").stdout, architecture)


def compile_all(sources: list[Path], compiler: Compiler, progress: Progress) -> list[Path]:
    """Return a program per source and number of tokens; only what the cache folder lacks is compiled.

    Raises UserError with the compiler's words where it fails, EnvironmentMismatchError where nothing can be written.
    """
    wanted = [(source, tokens) for source in sources for tokens in TOKENS.get(source.name, ATTENTION_TOKENS)]
    programs = []
    with progress.stage("compiling the paper's kernels") as step:
        for done, (source, tokens) in enumerate(wanted):
            step.advance(done / len(wanted), f"{source.name}, {tokens} tokens")
            programs.append(_program(source, tokens, compiler))
    return programs


def _program(source: Path, tokens: int, compiler: Compiler) -> Path:
    digest = hashlib.sha256((digest_of([source]) + compiler.words).encode()).hexdigest()[:12]
    name = f"{source.stem}-N{tokens}-sm_{compiler.architecture}-nvcc{compiler.version}-{digest}"
    program = cache_root() / "paper-kernels" / name
    if not program.is_file():
        with writing_to_cache(str(program)):
            program.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=program.parent) as unfinished:
                _compile(source, tokens, compiler, Path(unfinished) / name)
                os.replace(Path(unfinished) / name, program)
    return program


def _compile(source: Path, tokens: int, compiler: Compiler, program: Path) -> None:
    options = [f"-DN={tokens}", "-O3", f"-arch=sm_{compiler.architecture}"]
    _nvcc([str(compiler.path), *options, str(source.resolve()), "-o", str(program)], f"compiling {source}")


def _nvcc(command: list[str], what: str) -> subprocess.CompletedProcess[str]:
    try:
        result = finish(command, LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        got = f"no end after {LIMIT_SECONDS} s"
    except OSError as error:
        got = f"{command[0]}: {error.strerror}"
    else:
        if not result.returncode:
            return result
        words = (result.stderr + result.stdout).strip().splitlines()
        got = f"status {result.returncode}{first_mistake(words, 0)}"
    raise UserError(f"{what} failed", got=got, fix=f"mend what it says; the command was: {shlex.join(command)}")
