"""Is the installation well, and is a run: what ``kcircuits status`` does not say.

No weights are loaded. Each finding is a line: what was looked at, what was found, and the remedy
where it is not well.
"""

import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from kcircuits.core.manifest import Checkpoint, Manifest
from kcircuits.errors import CheckpointError, DoctorError, KCircuitsError
from kcircuits.io.facts import load_facts
from kcircuits.io.store import corrupt_shards
from kcircuits.study.manifest_check import check_manifest
from kcircuits.study.run import Run

State = Literal["ok", "warning", "problem"]
Hashing = Callable[[Iterable[Checkpoint]], Iterable[Checkpoint]]
PACKAGE = "kcircuits"
# The packages whose versions decide what is computed; the others are told if they do not fit.
TOLD = ("torch", "transformers", "transformer-lens", "peft", "numpy")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: The thing.
        found: What was found.
        state: Whether that is well.
        remedy: What to do about it.
        error: The problem as an error, where it is one of ours.
    """

    what: str
    found: str
    state: State = "ok"
    remedy: str | None = None
    error: KCircuitsError | None = None

    def to_error(self) -> KCircuitsError:
        """The problem as an error, with its exit code."""
        return self.error or DoctorError(f"{self.what}: {self.found}", hint=self.remedy)


def installation_findings(device: str = "cpu") -> Iterator[Finding]:
    """Versions against the ranges that the package declares, and the device."""
    try:
        declared = metadata.metadata(PACKAGE)
        requirements = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        yield Finding(
            what=PACKAGE,
            found="not installed as a package, so there are no ranges to compare with",
            state="problem",
            remedy="pip install it, with -e for a working copy",
        )
    else:
        yield version_finding("python", platform.python_version(), declared["Requires-Python"])
        wanted = [one for one in requirements if one.marker is None or one.marker.evaluate()]
        findings = [_package_finding(requirement) for requirement in wanted]
        shown = [one for one in findings if one.what in TOLD or one.state != "ok"]
        yield from shown
        yield Finding(what="other packages", found=f"{len(findings) - len(shown)} in their ranges")
    yield _device_finding(device)


def version_finding(name: str, version: str, supported: str) -> Finding:
    """Whether a version lies in a range such as ``>=3.9,<5``."""
    if SpecifierSet(supported).contains(version, prereleases=True):
        return Finding(what=name, found=f"{version} ({supported or 'any'})")
    return Finding(
        what=name,
        found=f"{version}; supported is {supported}",
        state="problem",
        remedy=f'pip install "{name}{supported}"'
        if name != "python"
        else "make an environment with a supported python",
    )


def run_findings(run: Run) -> Iterator[Finding]:
    """The stored results: every byte, and what they were computed with."""
    yield Finding(what="run", found=f"{run.name} in {run.path}, by {run.method}")
    spoilt = corrupt_shards(run.path / "store" / "shards")
    for error in spoilt:
        yield _of_error("store", error)
    if not spoilt:
        yield Finding(what="store", found="every stored byte verifies")
    recorded: dict[str, str] = dict(run.request.settings.get("libraries", {}))
    others = [f"{n} {v}" for n, v in recorded.items() if _version(n) != v]
    yield Finding(
        what="libraries of the run",
        found=f"computed with {', '.join(others)}" if others else "those that are installed",
        state="warning" if others else "ok",
        remedy="what is computed from now on is another request; install those versions to go on"
        if others
        else None,
    )


def manifest_findings(
    manifest: Manifest, run: Run | None, *, progress: Hashing = iter
) -> Iterator[Finding]:
    """The checkpoints and facts that a manifest names, and whether the run has scored these."""
    found = check_manifest(manifest, progress=progress)
    for error in found.problems:
        yield _of_error("manifest", error)
    for text in found.warnings:
        yield Finding(
            what="manifest", found=text, state="warning", remedy="see `kcircuits manifest check`"
        )
    n_usable = sum(check.sha256 is not None for check in found.checkpoints)
    if not found.problems:
        yield Finding(what="manifest", found=f"{n_usable} checkpoints, all as declared")
    if run is not None:
        hashes = {check.id: check.sha256 for check in found.checkpoints}
        yield _checkpoints_finding(run, hashes)
        yield from _facts_findings(run, manifest)


def _checkpoints_finding(run: Run, hashes: dict[str, str | None]) -> Finding:
    """Whether the checkpoints on disk are those that were scored."""
    scored = {c.id: c.content_hash for c in run.checkpoints if c.content_hash is not None}
    changed = [name for name, digest in scored.items() if hashes.get(name) not in (None, digest)]
    if not changed:
        return Finding(
            what="checkpoints of the run", found=f"{len(scored)} scored, none is another now"
        )
    remedy = f"score them anew with `kcircuits run --epochs {','.join(changed)}`"
    found = f"{', '.join(changed)} changed since they were scored"
    error = CheckpointError(found, hint=remedy)
    return Finding(
        what="checkpoints of the run", found=found, state="problem", remedy=remedy, error=error
    )


def _facts_findings(run: Run, manifest: Manifest) -> Iterator[Finding]:
    try:
        now = {fact.id: fact.content_hash for fact in load_facts(manifest.facts)}
    except KCircuitsError:  # told by the check of the manifest
        return
    then = {fact.id: fact.content_hash for fact in run.facts}
    changed = [name for name, digest in then.items() if now.get(name) != digest]
    yield Finding(
        what="facts of the run",
        found=f"{len(changed)} of {len(then)} were changed or removed since, e.g. {changed[0]}"
        if changed
        else f"{len(then)}, as in the facts file",
        state="warning" if changed else "ok",
        remedy="repeat `kcircuits run`; results of changed facts are computed anew"
        if changed
        else None,
    )


def _package_finding(requirement: Requirement) -> Finding:
    version = _version(requirement.name)
    if version is not None:
        return version_finding(requirement.name, version, str(requirement.specifier))
    return Finding(
        what=requirement.name,
        found="not installed",
        state="problem",
        remedy=f'pip install "{requirement.name}{requirement.specifier}"',
    )


def _device_finding(device: str) -> Finding:
    import torch  # takes seconds; the ranges are told before

    from kcircuits.models.devices import find_device

    try:
        place = find_device(device)
    except KCircuitsError as error:
        return _of_error("device", error)
    n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if _has_sysconf() else 0
    memory = f", {n_bytes / 2**30:.0f} GiB of memory" if n_bytes else ""
    found = f"{place}, {torch.get_num_threads()} threads on {os.cpu_count()} cores{memory}"
    if place.type == "cuda":
        found += f", {torch.cuda.get_device_name(place)}"
    return Finding(what="device", found=found)


def _has_sysconf() -> bool:
    return sys.platform != "win32" and "SC_PHYS_PAGES" in os.sysconf_names


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _of_error(what: str, error: KCircuitsError) -> Finding:
    place = f"{Path(error.file).name}: " if error.file else ""
    return Finding(
        what=what,
        found=f"{place}{error.message}",
        state="problem",
        remedy=error.hint,
        error=error,
    )


def finding_row(finding: Finding) -> dict[str, Any]:
    """A finding as ``--json`` has it."""
    return {name: getattr(finding, name) for name in ("what", "found", "state", "remedy")}
