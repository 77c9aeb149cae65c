"""The tokenizer in a folder, without any weights."""

from pathlib import Path
from typing import Any

from kcircuits.errors import CheckpointError
from kcircuits.io.checkpoint_files import TOKENIZER_FILES, confined


def load_tokenizer(folder: str | Path) -> Any:
    """The transformers tokenizer whose files are in a local folder; no code of it is run.

    Raises:
        CheckpointError: The folder is none, holds no tokenizer, or one that cannot be used.
    """
    root = Path(folder).absolute()
    if not root.is_dir():
        raise CheckpointError(
            "no such folder", file=root, hint="name the folder that holds tokenizer.json"
        )
    root = root.resolve()
    names = [name for name in TOKENIZER_FILES if (root / name).exists()]
    for name in names:
        confined(root, name)
    if not any(name.startswith(("tokenizer.", "vocab", "spiece")) for name in names):
        raise CheckpointError(
            "holds no tokenizer", file=root, hint="name the folder that holds tokenizer.json"
        )
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(root, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises whatever malformed files lead it to
        raise CheckpointError(
            f"the tokenizer cannot be used: {' '.join(str(error).split())[:300]}",
            file=root,
            hint="save the tokenizer again with save_pretrained(), or copy it again",
        ) from error
