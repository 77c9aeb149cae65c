"""The tables of an overlap between all pairs of epochs, as rows and as text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from kcircuits.analysis.overlap.all_pairs import OVERLAP
from kcircuits.analysis.overlap.corrected import jaccard_from_overlap
from kcircuits.analysis.overlap.pair_nulls import prompt_interval, swap_null
from kcircuits.analysis.overlap.pair_summary import MeasureSummary, PairSummary
from kcircuits.study.diff.tables import number
from kcircuits.study.overlap.fact_pairs import FactPairs, PairOptions

if TYPE_CHECKING:
    from kcircuits.study.overlap.epoch_overlap import EpochOverlap

Row = dict[str, Any]
Table = Float[np.ndarray, "epoch epoch"]
# Tables of overlaps o that rows show as Jaccards, by the names that they have there.
_FLOORS = {"matched": "chance_matched", "others": "other_facts", "degree": "chance_degree"}
_ALWAYS = ("matched", "others")


def pair_rows(
    epochs: Sequence[str], stratum: str, summary: PairSummary, nulls: Mapping[str, Table]
) -> list[Row]:
    """The rows of one stratum, see ``EpochOverlap.rows``.

    Args:
        epochs: Names of the epochs.
        stratum: Name of the stratum.
        summary: Its numbers.
        nulls: Further tables by the names that they have in the rows.
    """
    return [
        _pair_row(epochs, stratum, summary, nulls, s, t)
        for s in range(len(epochs))
        for t in range(s, len(epochs))
    ]


def null_tables(
    facts: Sequence[FactPairs],
    is_compared: Bool[np.ndarray, "fact epoch epoch"],
    options: PairOptions,
) -> dict[str, Table]:
    """Intervals over prompts, and what swapped labels give, where they were asked for.

    Args:
        facts: The facts of a stratum.
        is_compared: Which of them enter each pair of epochs.
        options: What was asked for.
    """
    made: dict[str, Table] = {}
    halved = [i for i, one in enumerate(facts) if one.n_prompts >= 2]
    inside = is_compared[halved]
    if options.n_prompt_draws and halved:
        draws = [one.prompt_draws for one in facts if one.prompt_draws is not None]
        low, high = prompt_interval(np.stack(draws), inside)
        made |= {"turnover_low_prompts": low, "turnover_high_prompts": high}
    if options.swaps and halved:
        p, high = swap_null(
            [facts[i].swapped or {} for i in halved], [facts[i].templates for i in halved], inside
        )
        made |= {"swap_p": p, "swap_turnover": high}
    return made


def matrix_text(overlap: "EpochOverlap", stratum: str) -> str:
    """What a notebook shows of an overlap: the Jaccard of one stratum, with what it means."""
    table = overlap.matrix("jaccard", stratum)
    chance = np.nanmax(overlap.matrix("chance", stratum), initial=-np.inf)
    width = max(6, *(len(epoch) for epoch in overlap.epochs))
    lines = [
        f"EpochOverlap: {len(overlap.fact_pairs)} facts, {len(overlap.epochs)} epochs, "
        f"{overlap.method}, top {overlap.n_edges:,} of {overlap.topology.n_edges:,} edges",
        f"Jaccard of {overlap.level}s, {stratum}: one half of the prompts with the other; on the "
        "diagonal the noise ceiling; "
        + (f"chance {chance:.3f}" if np.isfinite(chance) else "no fact is known"),
        " " * width + "".join(f"  {epoch:>{width}}" for epoch in overlap.epochs),
    ]
    for epoch, line in zip(overlap.epochs, table, strict=True):
        cells = ["-" if np.isnan(value) else f"{value:.2f}" for value in line]
        lines.append(f"{epoch:>{width}}" + "".join(f"  {cell:>{width}}" for cell in cells))
    return "\n".join(lines)


def _pair_row(
    epochs: Sequence[str],
    stratum: str,
    summary: PairSummary,
    nulls: Mapping[str, Table],
    s: int,
    t: int,
) -> Row:
    plain, means = summary.measures[OVERLAP], summary.means
    row: Row = {
        "stratum": stratum,
        "from": epochs[s],
        "to": epochs[t],
        "facts": int(summary.n_facts[s, t]),
        "entities": int(summary.n_entities[s, t]),
        **{("jaccard" + key): value for key, value in _interval(plain, "value", s, t).items()},
        **{("ceiling" + key): value for key, value in _interval(plain, "ceiling", s, t).items()},
        "chance": number(plain.chance[s, t]),
        **{("turnover" + key): value for key, value in _interval(plain, "turnover", s, t).items()},
    }
    for table, name in _FLOORS.items():
        if table in means or table in _ALWAYS:
            value = means[table][s, t] if table in means else np.nan
            row[name] = number(float(jaccard_from_overlap(value)))
    for name, ends in (("gained", (s, t)), ("lost", (t, s)), ("kept", (s, t))):
        table = "kept" if name == "kept" else "gained"
        row[name] = number(means[table][ends]) if table in means else None
    row["jaccard_same_prompts"] = number(means["same_prompts"][s, t])
    if "pruned" in means:
        row["jaccard_pruned"] = number(means["pruned"][s, t])
    row |= {name: number(table[s, t]) for name, table in nulls.items()}
    graded = {name: one for name, one in summary.measures.items() if name != OVERLAP}
    if graded:
        row["measures"] = {name: _measure_row(one, s, t) for name, one in graded.items()}
    return row


def _measure_row(measure: MeasureSummary, s: int, t: int) -> Row:
    return {
        **{("value" + key): value for key, value in _interval(measure, "value", s, t).items()},
        "ceiling": number(measure.ceiling.value[s, t]),
        "chance": number(measure.chance[s, t]),
        **{
            ("turnover" + key): value for key, value in _interval(measure, "turnover", s, t).items()
        },
    }


def _interval(measure: MeasureSummary, name: str, s: int, t: int) -> dict[str, float | None]:
    """A number and its ends, by what is put behind its name."""
    estimate = getattr(measure, name)
    return {
        "": number(estimate.value[s, t]),
        "_low": number(estimate.low[s, t]),
        "_high": number(estimate.high[s, t]),
    }
