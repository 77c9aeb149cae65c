"""What the formats of other tools take from a run."""

from collections.abc import Sequence
from pathlib import Path

from kcircuits.core.circuit import Circuits
from kcircuits.core.selection import select
from kcircuits.errors import KCircuitsError, UsageError
from kcircuits.io.checkpoint_files import model_files
from kcircuits.io.manifest import load_manifest
from kcircuits.study.run import Run
from kcircuits.study.stored_scores import stored_scores

# Names of d_model in the config.json of the families: Llama and most others, GPT-2.
_WIDTHS = ("hidden_size", "n_embd")


def epoch_circuits(run: Run, epoch: str, fact_ids: Sequence[str] | None = None) -> Circuits:
    """The circuits of an epoch at the run's budget, with the scores of all edges.

    Args:
        run: The run.
        epoch: A reference to the checkpoint.
        fact_ids: Which facts, in this order; default all but those whose cell failed.

    Raises:
        UsageError: There is no such epoch or fact.
        IncomparableError: Cells are missing, or failed, or hold only their largest scores.
        StoreCorruptError: What was read is not what was committed.
    """
    scores = stored_scores(run, epoch, fact_ids)
    return select(scores, n_edges=run.n_edges)


def checkpoint_width(run: Run, epoch: str, manifest: Path | None = None) -> int:
    """Width of the residual stream, from the ``config.json`` of an epoch's checkpoint.

    Args:
        run: The run.
        epoch: A reference to the checkpoint.
        manifest: Names the checkpoint's folder; default the manifest that the run was made from.

    Raises:
        UsageError: The manifest or the checkpoint is not there any more, or does not say.
    """
    file = run.path / run.record.manifest if manifest is None else manifest
    try:
        folder = load_manifest(file)[run.checkpoint(epoch).id].path
        config = model_files(folder).config
    except KCircuitsError as error:
        raise _no_width(f"the checkpoint cannot be read: {error.message}") from error
    found = (config.get(name) for name in _WIDTHS)
    width = next((value for value in found if isinstance(value, int)), None)
    if width is None:
        raise _no_width(f"{folder / 'config.json'} has none of {', '.join(_WIDTHS)}")
    return width


def _no_width(reason: str) -> UsageError:
    return UsageError(
        f"the width of the model (d_model) is not known: {reason}",
        field="d_model",
        hint="give it with --d-model N",
    )
