"""libinnerq by ctypes: loaded once, checked against this package's contract, statuses turned into exceptions."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from innerq_export.errors import ConfigError, EnvironmentMismatchError, UserError
from innerq_export.integrations import structs
from innerq_export.integrations.resolve import BUILD_COMMAND, BUILD_DIR, candidates, not_found
from innerq_export.spec import KEY_NORMS, MODES, SPEC_VERSION, CacheConfig


class KernelError(UserError):
    """A call of the kernel library that it refused or that failed on the card; `status` is its status name."""

    def __init__(self, status: str, what: str, fix: str | None = None):
        super().__init__(what, fix=fix)
        self.status = status


@dataclass(frozen=True)
class BuildInfo:
    """What a library says of itself. `cuda_version` is nvcc's, 13000 for 13.0, and 0 for the host build."""

    path: str
    spec_version: int
    cuda_version: int
    git_hash: str
    architectures: str


class Library:
    """A loaded libinnerq. `call` raises; `size_of` asks the functions that answer with one number."""

    def __init__(self, path: Path):
        self.path = path
        self._library = ctypes.CDLL(str(path))
        for name, arguments in structs.FUNCTIONS.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, ctypes.c_int
        self._library.innerq_last_message.restype = ctypes.c_char_p

    def __deepcopy__(self, memo: dict[int, Any]) -> Library:
        return self  # loaded once; copies of what uses it share it

    def function(self, name: str) -> Any:
        """Return the bare C function, for loops that time it; its status is the caller's to check with `check`."""
        return getattr(self._library, name)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of innerq.h; any status but INNERQ_OK raises with the library's own message."""
        self.check(name, getattr(self._library, name)(*arguments))

    def size_of(self, name: str, *arguments: Any) -> int:
        """Call a function whose last argument is `size_t *` and return what it wrote."""
        bytes_ = ctypes.c_size_t()
        self.call(name, *arguments, ctypes.byref(bytes_))
        return bytes_.value

    def check(self, name: str, status: int) -> None:
        """Raise unless `status` is INNERQ_OK: ConfigError, EnvironmentMismatchError or KernelError."""
        if status != 0:
            _raise(name, structs.STATUS[status], self._library.innerq_last_message().decode())

    @functools.cached_property
    def build(self) -> BuildInfo:
        """Facts about the build of this library."""
        facts = structs.Build()
        self.call("innerq_build_info", ctypes.byref(facts))
        hash_, architectures = (facts.git_hash or b"").decode(), (facts.architectures or b"").decode()
        return BuildInfo(str(self.path), facts.spec_version, facts.cuda_version, hash_, architectures)

    @property
    def is_host(self) -> bool:
        """Whether this is the host build: pointers are host pointers and calls return when done."""
        return self.build.cuda_version == 0


def _raise(name: str, status: str, message: str) -> NoReturn:
    what = f"{name}: {message or status}"
    if status == "INNERQ_UNSUPPORTED":
        what, _, fix = what.partition("; ")  # the library's own remedy, where the card is not to blame
        raise EnvironmentMismatchError(what, fix=fix or f"build the library for this card: {BUILD_COMMAND['cuda']}")
    if status == "INNERQ_CAPACITY_EXCEEDED":
        raise ConfigError(what, fix="make the cache with more blocks, or append fewer tokens")
    raise KernelError(status, what)


def load(kind: str = "cuda", path: Path | None = None, build_dir: Path = BUILD_DIR) -> Library:
    """Return the first usable library of `kind` ("cuda" or "host"); see `resolve.candidates` for where it is sought.

    Raises EnvironmentMismatchError that says of every candidate why it was refused.
    """
    refused = []
    for candidate in candidates(kind, path, build_dir):
        library, reason = _try(candidate.path, kind)
        if library is not None:
            return library
        refused.append(f"{candidate.path} ({candidate.source}): {reason}")
    raise not_found(kind, refused)


@functools.cache
def default_library(kind: str = "cuda") -> Library:
    """Return the library of `kind` that the torch ops use, loaded once per process."""
    return load(kind)


def _try(path: Path, kind: str) -> tuple[Library | None, str]:
    if not path.is_file():
        return None, "no such file"
    try:
        library = Library(path.resolve())
    except (OSError, AttributeError) as error:
        return None, f"cannot be loaded: {error}"
    build = library.build
    if build.spec_version != SPEC_VERSION:
        return None, f"built for contract v{build.spec_version}, this package speaks v{SPEC_VERSION}; build it again"
    if library.is_host != (kind == "host"):
        return None, f"is the {'host' if library.is_host else 'CUDA'} build, not the {kind} one"
    return library, ""


def config_struct(config: CacheConfig, head_dim: int, activation: str) -> structs.Config:
    """Return innerq_config for a cache configuration; `activation`: "fp16" or "bf16"."""
    return structs.Config(
        spec_version=config.spec_version,
        head_dim=head_dim,
        key_bits=config.key_bits,
        key_mode=MODES.index(config.key_mode),
        value_bits=config.value_bits,
        value_mode=MODES.index(config.value_mode),
        group_size=config.group_size,
        sink=config.sink,
        recent=config.recent,
        key_norm=KEY_NORMS.index(config.key_norm),
        activation=structs.ACTIVATIONS.index(activation),
    )
