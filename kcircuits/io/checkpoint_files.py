"""Which files make up a checkpoint, whether they may be opened, and their content hash.

A checkpoint folder comes from outside. Before any library opens a file in it, every name (also
those that an index of shards mentions) is resolved and must lie under the folder, be a regular
file and, for weights, be a whole safetensors file. Nothing here needs torch: headers are read as
JSON, so a sweep can hash and check all its checkpoints before a model is built.

This module does not judge whether the tensors fit the architecture: that is ``kcircuits.models``.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kcircuits.errors import CheckpointError
from kcircuits.io.confinement import (
    TEMPLATE_FOLDER,
    access_error,
    checkpoint_folder,
    confined,
    entries,
)
from kcircuits.io.safetensors_header import TensorInfo, read_header

# Files that decide how text becomes token ids; with weights and config they are the checkpoint.
TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
# Beside an adapter: which base it was trained on. Not part of the content hash.
BASE_RECORD = "kcircuits.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_JSON_BYTES = 100_000_000


@dataclass(frozen=True, kw_only=True)
class CheckpointFiles:
    """The checked files of one model or adapter folder.

    Attributes:
        root: The folder.
        config: Parsed ``config.json`` or ``adapter_config.json``.
        tensors: Every tensor that the safetensors files hold, by name.
        hashed: Files that make up the content, by their name in the folder.
    """

    root: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    hashed: Mapping[str, Path]

    @property
    def has_tokenizer(self) -> bool:
        """Whether the folder can make token ids of text."""
        return not self.hashed.keys().isdisjoint(
            {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"}
        )


def model_files(path: str | Path) -> CheckpointFiles:
    """The files of a model folder: config, safetensors (sharded or not), tokenizer.

    Raises:
        CheckpointError: The folder is none, lacks a file, or holds one that may not be opened.
        FileAccessError: The disk refused.
    """
    root = checkpoint_folder(path)
    names = entries(root)
    if "adapter_config.json" in names:
        raise CheckpointError(
            "this folder holds an adapter, not a whole model",
            file=root / "adapter_config.json",
            hint="name the base model's folder as `path` and this one as `adapter`",
        )
    if "config.json" not in names:
        found = "it is empty" if not names else f"it holds {', '.join(names[:5])}"
        raise CheckpointError(
            f"no config.json in the checkpoint folder; {found}",
            file=root,
            hint="name the folder that save_pretrained() wrote (config.json and *.safetensors)",
        )
    config = read_json(root / "config.json")
    if "quantization_config" in config:
        raise CheckpointError(
            "the weights are quantised, so they are not the numbers that the circuits need",
            file=root / "config.json",
            field="quantization_config",
            hint="save a dequantised copy (float32 or bfloat16) and load that",
        )
    weights, tensors = _weights(root, names)
    hashed = {name: root / name for name in ("config.json", *weights, *_tokenizer(names))}
    return CheckpointFiles(root=root, config=config, tensors=tensors, hashed=hashed)


def adapter_files(path: str | Path) -> CheckpointFiles:
    """The files of a PEFT adapter folder.

    Raises:
        CheckpointError: The folder is none, lacks a file, or holds one that may not be opened.
        FileAccessError: The disk refused.
    """
    root = checkpoint_folder(path)
    names = entries(root)
    if "adapter_config.json" not in names:
        raise CheckpointError(
            "no adapter_config.json in the adapter folder",
            file=root,
            hint="name the folder that PEFT's save_pretrained() wrote",
        )
    if "adapter_model.safetensors" not in names:
        if "adapter_model.bin" in names:
            raise _pickled(root, "adapter_model.bin")
        raise CheckpointError("no adapter_model.safetensors in the adapter folder", file=root)
    tensors = read_header(root / "adapter_model.safetensors")
    members = ("adapter_config.json", "adapter_model.safetensors", *_tokenizer(names))
    return CheckpointFiles(
        root=root,
        config=read_json(root / "adapter_config.json"),
        tensors=tensors,
        hashed={name: root / name for name in members},
    )


def content_hash(path: str | Path, adapter: str | Path | None = None) -> str:
    """sha256 (hex) over weights, config, tokenizer files and adapter of a checkpoint.

    Names are sorted and only their content counts: a copy elsewhere has the same hash.

    Raises:
        CheckpointError: A file is missing or may not be opened.
        FileAccessError: The disk refused.
    """
    parts = {f"model/{name}": file for name, file in model_files(path).hashed.items()}
    if adapter is not None:
        files = adapter_files(adapter).hashed
        parts |= {f"adapter/{name}": file for name, file in files.items()}
    total = hashlib.sha256()
    for name in sorted(parts):
        total.update(f"{_sha256(parts[name])}  {name}\n".encode())
    return total.hexdigest()


def read_base_hash(adapter: str | Path) -> str | None:
    """Content hash of the base that an adapter was trained on, where it was recorded."""
    file = Path(adapter) / BASE_RECORD
    if not file.is_file():
        return None
    recorded = read_json(file).get("base_sha256")
    if not isinstance(recorded, str):
        raise CheckpointError("no base_sha256 in the record", file=file, field="base_sha256")
    return recorded


def base_record(base_sha256: str) -> str:
    """Text of the file ``BASE_RECORD`` that a trainer puts beside an adapter."""
    return json.dumps({"base_sha256": base_sha256}, indent=2) + "\n"


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a checked file; CheckpointError with the line where it is not one."""
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"larger than {MAX_JSON_BYTES} bytes", file=file)
        value = json.loads(file.read_bytes())
    except OSError as error:
        raise access_error(error, file) from error
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"not valid JSON: {error.msg}",
            file=file,
            line=error.lineno,
            hint="copy or download the checkpoint again",
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not valid JSON: {error}", file=file) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"a JSON object was expected, not a {type(value).__name__}", file=file
        )
    return value


def _weights(root: Path, names: list[str]) -> tuple[list[str], dict[str, TensorInfo]]:
    if "model.safetensors" in names:
        return ["model.safetensors"], read_header(root / "model.safetensors")
    if "model.safetensors.index.json" in names:
        return _sharded(root)
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        raise _pickled(root, pickles[0])
    others = [name for name in names if name.endswith(".safetensors")]
    seen = f"; it holds {others[0]}, which no index names" if others else ""
    raise CheckpointError(
        f"no model.safetensors and no model.safetensors.index.json in the folder{seen}",
        file=root,
        hint="save the model with save_pretrained()",
    )


def _sharded(root: Path) -> tuple[list[str], dict[str, TensorInfo]]:
    index = root / "model.safetensors.index.json"
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("no weight_map in the index", file=index, field="weight_map")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{shard!r} is not the name of a safetensors file", file=index, field=tensor
            )
        if not confined(root, shard).is_file():
            raise CheckpointError(f"{shard!r} is not a file", file=index, field=tensor)
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted(set(weight_map.values())):
        for name, info in read_header(root / shard).items():
            if weight_map.get(name) != shard:
                raise CheckpointError(
                    f"{shard} holds {name}, which the index puts into {weight_map.get(name)}",
                    file=index,
                    field=name,
                )
            tensors[name] = info
    if absent := sorted(weight_map.keys() - tensors.keys()):
        raise CheckpointError(
            f"{weight_map[absent[0]]} lacks {absent[0]}, which the index puts there",
            file=index,
            field=absent[0],
        )
    return [index.name, *sorted(set(weight_map.values()))], tensors


def _tokenizer(names: list[str]) -> list[str]:
    return [n for n in names if n in TOKENIZER_FILES or n.startswith(f"{TEMPLATE_FOLDER}/")]


def _pickled(root: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"the weights are pickles ({name}), which can run code when opened; safetensors only",
        file=root,
        hint=(
            'if you trust them, convert them once: python -c "from transformers import '
            f"AutoModelForCausalLM as M; M.from_pretrained('{root}')"
            f".save_pretrained('{root}-safetensors')\""
        ),
    )


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise access_error(error, file) from error
