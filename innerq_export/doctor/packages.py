"""Python packages: what innerq-export asks for against what is installed, from metadata alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import metadata

from innerq_export.doctor.finding import Finding

OPTIONAL = {
    "tensorrt-rtx": ("--backend tensorrt-rtx", "pip install 'innerq-export[rtx]'"),
    "tensorrt": ("--backend tensorrt", "pip install 'innerq-export[tensorrt]'"),
    "tensorrt-lean": ("trying the plugin in TensorRT's registry", "pip install tensorrt-lean"),
}
"""Package -> (what needs it, how to get it)."""


def packages() -> Iterator[Finding]:
    """Every requirement of the base install, then the optional backends."""
    from packaging.requirements import Requirement

    for line in metadata.requires("innerq-export") or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield required(requirement.name, str(requirement.specifier), requirement.specifier.contains)
    for name, (purpose, fix) in OPTIONAL.items():
        version = version_of(name)
        text = version or f"not installed; only {purpose} needs it"
        yield Finding("packages", name, "ok" if version else "absent", text, fix)


def required(name: str, wanted: str, contains: Callable[..., bool]) -> Finding:
    """Hold one package to the versions that were tested; `contains(version)` says whether `wanted` covers it."""
    version = version_of(name)
    if version is None:
        return Finding(
            "packages", name, "problem", f"not installed, {wanted} is needed", f"pip install '{name}{wanted}'"
        )
    if not contains(version, prereleases=True):
        return Finding("packages", name, "problem", f"{version}, tested with {wanted}", f"pip install '{name}{wanted}'")
    return Finding("packages", name, "ok", version)


def version_of(name: str) -> str | None:
    """Return the installed version, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
