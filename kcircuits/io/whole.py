"""Whether all that a run folder keeps is as it was written: cells, lenses, judged transfers."""

from pathlib import Path

from kcircuits.errors import StoreCorruptError
from kcircuits.io.judgements import corrupt_judgements
from kcircuits.io.lens_files import corrupt_lens_files
from kcircuits.io.store import corrupt_shards, repair_store


def corrupt_files(folder: Path) -> list[StoreCorruptError]:
    """Reads every stored byte of a run; what does not verify, as errors.

    Args:
        folder: The run folder.
    """
    return [*corrupt_shards(folder / "store" / "shards"), *_beside_the_store(folder)]


def repair(folder: Path) -> list[str]:
    """Removes what does not verify, so that it is computed again when it is asked for.

    Args:
        folder: The run folder; one without a store is left alone.

    Returns:
        Names of the files that were removed.

    Raises:
        StoreBusyError: Another process writes to the store.
        FileAccessError: The disk refused.
    """
    if not (folder / "store").is_dir():  # a mistyped folder must not become one
        return []
    removed = repair_store(folder / "store")
    for error in _beside_the_store(folder):
        file = Path(error.file or "")
        file.unlink(missing_ok=True)
        removed.append(file.name)
    return removed


def _beside_the_store(folder: Path) -> list[StoreCorruptError]:
    return [*corrupt_lens_files(folder), *corrupt_judgements(folder)]
