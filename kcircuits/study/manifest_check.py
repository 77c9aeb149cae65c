"""Does a manifest tell the truth: files there, hashes right, one tokenizer, one architecture.

No weights are loaded. A tokenizer is loaded only where the tokenizer files of two checkpoints
differ, to see whether the facts' token ids do.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kcircuits.core.batch import PromptBatch
from kcircuits.core.facts import Fact
from kcircuits.core.manifest import Checkpoint, Manifest
from kcircuits.errors import CheckpointError, KCircuitsError, ManifestError
from kcircuits.io.checkpoint_files import (
    CheckpointFiles,
    adapter_files,
    content_hash,
    model_files,
    read_base_hash,
    read_json,
)
from kcircuits.io.facts import scan_facts

# What a library writes about itself and how it was called, not about the function computed.
_VOLATILE = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
)


@dataclass(frozen=True, kw_only=True)
class CheckpointCheck:
    """One checkpoint: its content hash (None if unusable) and what the manifest says of it.

    ``state`` is ``verified``, ``unverified`` (no hash declared), ``differs`` or ``unusable``.
    """

    id: str
    sha256: str | None
    state: str


@dataclass(frozen=True, kw_only=True)
class ManifestCheck:
    """All that was found; ``problems`` is empty if the manifest can be used."""

    checkpoints: tuple[CheckpointCheck, ...]
    problems: tuple[KCircuitsError, ...]
    warnings: tuple[str, ...]


def check_manifest(
    manifest: Manifest,
    *,
    progress: Callable[[Iterable[Checkpoint]], Iterable[Checkpoint]] = iter,
) -> ManifestCheck:
    """Check everything that a manifest names.

    Args:
        manifest: The manifest.
        progress: Wraps the checkpoints while they are hashed, e.g. a progress bar.
    """
    problems: list[KCircuitsError] = []
    facts = _facts(manifest, problems)
    if manifest.tokenizer is not None and not manifest.tokenizer.is_dir():
        problems.append(
            ManifestError(
                f"the tokenizer's folder {manifest.tokenizer} does not exist",
                file=manifest.path,
                field="tokenizer",
                hint="name the folder that holds tokenizer.json, or remove the field",
            )
        )
    checks: list[CheckpointCheck] = []
    usable: list[Checkpoint] = []
    for checkpoint in progress(manifest.checkpoints):
        try:
            check = _check_one(checkpoint, problems)
            usable.append(checkpoint)
        except KCircuitsError as problem:
            problems.append(problem)
            check = CheckpointCheck(id=checkpoint.id, sha256=None, state="unusable")
        checks.append(check)
    warnings = [*_duplicates(checks), *_config_differences(usable)]
    warnings += _tokenizer_differences(usable, facts, problems)
    if unverified := [check.id for check in checks if check.state == "unverified"]:
        warnings.append(
            f"unverified, since the manifest declares no sha256: {', '.join(unverified)}"
        )
    return ManifestCheck(
        checkpoints=tuple(checks), problems=tuple(problems), warnings=tuple(warnings)
    )


def equal_hashes(hashes: Iterable[tuple[str, str | None]]) -> list[str]:
    """One warning for each content that more than one checkpoint has."""
    by_hash: dict[str, list[str]] = {}
    for name, digest in hashes:
        if digest is not None:
            by_hash.setdefault(digest, []).append(name)
    return [
        f"{' and '.join(names)} are bit-identical (sha256 {digest[:12]})"
        for digest, names in by_hash.items()
        if len(names) > 1
    ]


def _facts(manifest: Manifest, problems: list[KCircuitsError]) -> tuple[Fact, ...]:
    try:
        facts, found = scan_facts(manifest.facts)
    except KCircuitsError as problem:
        problems.append(problem)
        return ()
    problems += found
    return facts


def _check_one(checkpoint: Checkpoint, problems: list[KCircuitsError]) -> CheckpointCheck:
    found = content_hash(checkpoint.path, checkpoint.adapter)
    state = "unverified" if checkpoint.sha256 is None else "verified"
    if checkpoint.sha256 not in (None, found):
        state = "differs"
        problems.append(
            CheckpointError(
                f"the content of {checkpoint.id} has sha256 {found}, the manifest declares "
                f"{checkpoint.sha256}",
                file=checkpoint.adapter or checkpoint.path,
                field="sha256",
                hint="restore the checkpoint, or write the manifest anew with manifest init",
            )
        )
    base = None if checkpoint.adapter is None else read_base_hash(checkpoint.adapter)
    if base is not None and base != content_hash(checkpoint.path):
        problems.append(
            CheckpointError(
                f"the adapter of {checkpoint.id} was trained on another base, sha256 {base}",
                file=checkpoint.adapter,
                field="base_sha256",
                hint="name the base that it was trained on as path",
            )
        )
    return CheckpointCheck(id=checkpoint.id, sha256=found, state=state)


def _duplicates(checks: list[CheckpointCheck]) -> list[str]:
    return equal_hashes((check.id, check.sha256) for check in checks)


def _config_differences(checkpoints: list[Checkpoint]) -> list[str]:
    warnings: list[str] = []
    configs = [_stable(model_files(checkpoint.path).config) for checkpoint in checkpoints]
    for checkpoint, config in zip(checkpoints, configs, strict=True):
        names = sorted(config.keys() | configs[0].keys())
        different = [name for name in names if config.get(name) != configs[0].get(name)]
        if different:
            warnings.append(
                f"config.json of {checkpoint.id} differs from {checkpoints[0].id}'s in "
                f"{', '.join(different)}"
            )
    return warnings


def _stable(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _VOLATILE}


def _tokenizer_differences(
    checkpoints: list[Checkpoint], facts: tuple[Fact, ...], problems: list[KCircuitsError]
) -> list[str]:
    """Warnings where the files differ; problems where the facts' token ids do."""
    warnings: list[str] = []
    first: tuple[Checkpoint, CheckpointFiles, str] | None = None
    for checkpoint in checkpoints:
        files = _tokenizer_files(checkpoint)
        digest = _tokenizer_hash(files)
        if first is None:
            first = (checkpoint, files, digest)
        elif digest != first[2]:
            warnings.append(f"the tokenizer of {checkpoint.id} differs from {first[0].id}'s")
            problems += _token_differences(facts, first[:2], (checkpoint, files))
    return warnings


def _tokenizer_files(checkpoint: Checkpoint) -> CheckpointFiles:
    adapter = None if checkpoint.adapter is None else adapter_files(checkpoint.adapter)
    return adapter if adapter and adapter.has_tokenizer else model_files(checkpoint.path)


def _tokenizer_hash(files: CheckpointFiles) -> str:
    """Hash of what decides token ids; how prompts are padded or cut does not."""
    if "tokenizer.json" in files.hashed:
        content = read_json(files.hashed["tokenizer.json"])
        kept = {key: value for key, value in content.items() if key not in _PADDING}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    names = sorted(files.hashed.keys() & {"merges.txt", "tokenizer.model", "vocab.json"})
    return hashlib.sha256(b"".join(files.hashed[name].read_bytes() for name in names)).hexdigest()


_PADDING = frozenset({"padding", "truncation", "version"})


def _token_differences(
    facts: tuple[Fact, ...],
    first: tuple[Checkpoint, CheckpointFiles],
    other: tuple[Checkpoint, CheckpointFiles],
) -> list[KCircuitsError]:
    if not facts:
        return []
    try:
        batches = [_batch(files.root, facts) for _, files in (first, other)]
    except KCircuitsError as problem:
        return [problem]
    if _same_tokens(*batches):
        return []
    return [
        CheckpointError(
            f"the facts' token ids differ between {first[0].id} and {other[0].id}, so their "
            "circuits cannot be compared",
            file=other[1].root,
            field="tokenizer",
            hint="give all checkpoints of a run one tokenizer",
        )
    ]


def _batch(folder: Path, facts: tuple[Fact, ...]) -> PromptBatch:
    from kcircuits.models.prompts import tokenize_facts
    from kcircuits.models.tokenizer import load_tokenizer

    return tokenize_facts(load_tokenizer(folder), facts)


def _same_tokens(one: PromptBatch, other: PromptBatch) -> bool:
    names = ("clean", "corrupt", "lengths", "target", "foil")
    same = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
    return same and one.candidates == other.candidates
