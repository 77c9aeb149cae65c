"""Which names in a checkpoint folder may be opened: regular files under the folder, no others.

A link, an index or an archive can name ``../secrets``, a pipe that blocks for ever, or a device.
Everything is resolved and looked at before it is opened.
"""

import stat
from pathlib import Path

from kcircuits.errors import CheckpointError, FileAccessError

# A folder of chat templates that tokenizers read; other subfolders are never entered.
TEMPLATE_FOLDER = "additional_chat_templates"


def checkpoint_folder(path: str | Path) -> Path:
    """The real path of a folder; CheckpointError where there is none."""
    root = Path(path)
    try:
        if not stat.S_ISDIR(root.stat().st_mode):
            raise CheckpointError(
                "a checkpoint is a folder, not a file",
                file=root,
                hint="name the folder with config.json and *.safetensors",
            )
        return root.resolve(strict=True)
    except FileNotFoundError:
        raise CheckpointError("the checkpoint folder does not exist", file=root) from None
    except (OSError, RuntimeError) as error:
        raise access_error(error, root) from error


def entries(root: Path) -> list[str]:
    """Names of all regular files of a folder; the libraries may open any of them."""
    names: list[str] = []
    try:
        found = sorted(root.iterdir())
    except OSError as error:
        raise access_error(error, root) from error
    for entry in found:
        if entry.is_dir():
            if entry.name == TEMPLATE_FOLDER:
                names += [f"{entry.name}/{name}" for name in entries(confined(root, entry.name))]
            continue
        confined(root, entry.name)
        names.append(entry.name)
    return names


def confined(root: Path, name: str) -> Path:
    """The real path of ``name``, proven to be a file or folder under ``root``.

    The links of a Hub cache (``snapshots/<revision>/``) into its own ``blobs/`` count as inside.
    """
    file = root / name
    try:
        real = file.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{name!r} leads to no file", file=file, hint="copy or download the checkpoint again"
        ) from error
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")
    if not any(real.is_relative_to(folder) for folder in allowed):
        raise CheckpointError(
            f"{name!r} leads outside the checkpoint folder, to {real}",
            file=file,
            hint="copy the file into the folder",
        )
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise CheckpointError(
            f"{name!r} is neither a regular file nor a folder (a pipe, socket or device)",
            file=file,
            hint="remove it from the checkpoint folder",
        )
    return real


def access_error(error: OSError | RuntimeError, file: Path) -> FileAccessError:
    """What the operating system said, as an error for users."""
    reason = getattr(error, "strerror", None) or str(error)
    return FileAccessError(f"cannot be read: {reason}", file=file)
