"""What ``kcircuits overlap`` prints of all pairs of epochs."""

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kcircuits.analysis.overlap.pair_nulls import N_PROMPT_DRAWS
from kcircuits.cli.diff import verdict_text
from kcircuits.cli.options import run_of
from kcircuits.cli.output import (
    interval_text,
    number_text,
    present,
    print_aligned,
    printable,
    progress,
    styled,
)
from kcircuits.errors import EXIT_OK

if TYPE_CHECKING:
    from kcircuits.study.fact_cells import FactCells
    from kcircuits.study.overlap.epoch_overlap import EpochOverlap
    from kcircuits.study.overlap.epoch_steps import EpochSteps

Row = dict[str, Any]
_HASH_DIGITS = 12
_FLOORS = {
    "chance": "chance",
    "chance_matched": "chance with as many edges between any two layers",
    "chance_degree": "chance of circuits of the same degrees",
    "other_facts": "another fact of the same relation",
}


def run(args: argparse.Namespace) -> int:
    """Prints matrices, floors and pairs; with ``--against`` the steps with verdicts."""
    from kcircuits.sweep.request import choose_facts

    def bar(facts: "Iterable[FactCells]", n_facts: int) -> "Iterable[FactCells]":
        return progress(facts, "overlap", quiet=args.quiet, total=n_facts)

    opened = run_of(args)
    overlap = opened.overlap(
        by=args.by,
        level=args.level,
        epochs=None if args.epochs is None else opened.select(args.epochs),
        facts=[fact.id for fact in choose_facts(opened.facts, args.facts)],
        measures=args.measures,
        pruned=args.pruned,
        degree=args.degree,
        n_prompt_draws=N_PROMPT_DRAWS if args.resample == "prompts" else 0,
        swaps=args.null,
        progress=bar,
    )
    steps = None if args.against is None else overlap.against(args.against)
    present(
        args,
        document=lambda: overlap.to_json() | (steps.to_json() if steps else {}),
        text=lambda: _print(overlap, steps, args.measures),
        page=lambda: _page(overlap, steps),
    )
    return EXIT_OK


def _page(overlap: "EpochOverlap", steps: "EpochSteps | None") -> str:
    from kcircuits.study.overlap.page import overlap_page  # plotly loads late

    return overlap_page(overlap, steps)


def _print(overlap: "EpochOverlap", steps: "EpochSteps | None", measures: bool) -> None:
    _print_head(overlap)
    for stratum in overlap.summaries:
        _print_matrices(overlap, stratum)
        if steps is None and len(overlap.epochs) > 1:
            _print_pairs(overlap, stratum)
        if measures:
            _print_measures(overlap, stratum)
    if steps is not None:
        _print_steps(steps)
    _print_left_out(overlap)


def _print_head(overlap: "EpochOverlap") -> None:
    n_epochs = len(overlap.epochs)
    print(styled(f"overlap of {n_epochs} epoch{'s' * (n_epochs > 1)}", "bold"))
    width = max(len(printable(epoch)) for epoch in overlap.epochs)
    for epoch, digest in zip(overlap.epochs, overlap.hashes, strict=True):
        mark = "  unverified: its manifest entry declares no sha256" * (epoch in overlap.unverified)
        print(f"  {printable(epoch):<{width}}  {(digest or '-')[:_HASH_DIGITS]}{mark}")
    params = ", ".join(f"{name} {value}" for name, value in sorted(overlap.params.items()))
    print(
        f"  {overlap.method}{f' ({printable(params)})' if params else ''}\n"
        f"  top {overlap.n_edges:,} of {overlap.topology.n_edges:,} edges "
        f"({overlap.fraction:.2%}), {overlap.n_prompts} {overlap.rows_are} a fact, halved; "
        f"overlaps count {overlap.level}s"
    )


def _print_matrices(overlap: "EpochOverlap", stratum: str) -> None:
    named = f", {printable(overlap.by)} {printable(stratum)}" if overlap.by else ""
    print(styled(f"\nJaccard{named}", "bold") + "  (diagonal: the noise ceiling of that epoch)")
    _print_matrix(overlap.epochs, overlap.matrix("jaccard", stratum))
    print(styled(f"\nTurnover{named}", "bold") + "  (0 none, 1 chance)")
    _print_matrix(overlap.epochs, overlap.matrix("turnover", stratum))
    rows = [row for row in overlap.rows if row["stratum"] == stratum]
    counts = [row["facts"] for row in rows]
    n_facts = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(counts[0])
    print(styled(f"  mean over the facts known at both epochs: {n_facts} a pair", "dim"))
    for field, words in _FLOORS.items():
        found = [row[field] for row in rows if row.get(field) is not None]
        if found:
            low, high = (f"{value:.3f}" for value in (min(found), max(found)))
            print(f"  {words}: {low if low == high else f'{low} to {high}'}")


def _print_matrix(epochs: Sequence[str], values: np.ndarray) -> None:
    lines = [
        [printable(epoch), *(number_text(None if np.isnan(v) else float(v), ".2f") for v in line)]
        for epoch, line in zip(epochs, values, strict=True)
    ]
    print_aligned(["", *map(printable, epochs)], lines)


def _print_pairs(overlap: "EpochOverlap", stratum: str) -> None:
    """Each epoch with the one before it, with intervals and no verdict."""
    follows = set(zip(overlap.epochs, overlap.epochs[1:], strict=False))
    rows = [
        row
        for row in overlap.rows
        if row["stratum"] == stratum and (row["from"], row["to"]) in follows
    ]
    headers = ["step", "facts", "Jaccard", "interval", "ceiling", "chance", "turnover", "interval"]
    columns = [
        [_step(row), str(row["facts"]), number_text(row["jaccard"], ".2f"),
         interval_text(row, "jaccard"), number_text(row["ceiling"], ".2f"),
         number_text(row["chance"], ".3f"), number_text(row["turnover"], ".2f"),
         interval_text(row, "turnover")]
        for row in rows
    ]  # fmt: skip
    if "turnover_low_prompts" in rows[0]:
        headers.append("over prompts")
        for line, row in zip(columns, rows, strict=True):
            ends = {"x_low": row["turnover_low_prompts"], "x_high": row["turnover_high_prompts"]}
            line.append(interval_text(ends, "x"))
    if "swap_p" in rows[0]:
        headers += ["swapped p", "1 in 20"]
        for line, row in zip(columns, rows, strict=True):
            line += [number_text(row["swap_p"], ".3f"), number_text(row["swap_turnover"], ".2f")]
    print()
    print_aligned(headers, columns)
    print(styled("  95% intervals over entities; --against tests the steps", "dim"))


def _print_measures(overlap: "EpochOverlap", stratum: str) -> None:
    follows = set(zip(overlap.epochs, overlap.epochs[1:], strict=False))
    lines = [
        [name, _step(row), *(number_text(one[field], ".2f") for field in ("value", "ceiling")),
         number_text(one["chance"], ".3f"), number_text(one["turnover"], ".2f"),
         interval_text(one, "turnover")]
        for row in overlap.rows
        if row["stratum"] == stratum and (row["from"], row["to"]) in follows
        for name, one in row["measures"].items()
    ]  # fmt: skip
    print(styled("\nOther measures", "bold") + "  (of sizes |score| within the circuits)")
    headers = ["measure", "step", "value", "ceiling", "chance", "turnover", "interval"]
    print_aligned(headers, sorted(lines, key=lambda line: line[0]), left=(0, 1))


def _print_steps(steps: "EpochSteps") -> None:
    print(styled(f"\nAgainst {steps.against}", "bold") + "  (p and q by Holm over the steps)")
    lines = [
        [_step(row), printable(row["stratum"]), str(row["facts"]),
         number_text(row["gained"], "+.1f"),
         number_text(None if row["lost"] is None else -row["lost"], "+.1f"),
         number_text(row["kept"], ".1f"), number_text(row["jaccard"], ".2f"),
         number_text(row["ceiling"], ".2f"), number_text(row["chance"], ".3f"),
         number_text(row["turnover"], ".2f"), interval_text(row, "turnover")]
        for row in steps.rows
    ]  # fmt: skip
    headers = ["step", "stratum", "facts", "gained", "lost", "kept", "Jaccard", "ceiling"]
    print_aligned([*headers, "chance", "turnover", "interval"], lines, left=(0, 1))
    print()
    for line, row in zip(lines, steps.rows, strict=True):
        named = f"  {line[1]}" if steps.by else ""
        print(f"  {line[0]}{named}  {verdict_text(row)}")
    tested = [row for row in steps.fact_rows if row["q"] is not None]
    changed = [row for row in tested if row["verdict"] == "changed"]
    print(f"  facts by themselves: {len(changed)} changes in {len(tested)} tests")


def _print_left_out(overlap: "EpochOverlap") -> None:
    if overlap.without_halves:
        n = len(overlap.without_halves)
        print(
            f"  left out: {n} fact{'s' * (n > 1)} of one discovery prompt, which cannot be halved, "
            f"e.g. {printable(overlap.without_halves[0])}"
        )
    missing = sum(len(overlap.epochs) - len(one.present) for one in overlap.fact_pairs)
    if missing:
        print(f"  {missing} results are missing or failed: those facts are left out there")


def _step(row: Row) -> str:
    return f"{printable(row['from'])} -> {printable(row['to'])}"
