"""``kcircuits overlap --facts-at EPOCH``: how alike the circuits of different facts are."""

import argparse
from typing import TYPE_CHECKING, Any

from kcircuits.cli.options import run_of
from kcircuits.cli.output import (
    number_text,
    present,
    print_aligned,
    printable,
    styled,
)
from kcircuits.errors import EXIT_OK
from kcircuits.study.between.words import CLUSTERS, CONTRASTS, group_name

if TYPE_CHECKING:
    from kcircuits.study.between.facts import BetweenFacts

_HASH_DIGITS = 12
_STYLES = {
    "more-alike": "red",
    "not-more-alike": "green",
    "clusters": "red",
    "no-clusters": "green",
    "undetermined": "yellow",
}


def add_options(parser: argparse.ArgumentParser | Any) -> None:
    """Adds ``--facts-at``."""
    parser.add_argument(
        "--facts-at",
        metavar="EPOCH",
        help="compare the facts of one epoch with each other: pairs within a stratum (--by, "
        "default: relation) with pairs between strata, and groups of facts with like circuits",
    )


def run_facts_at(args: argparse.Namespace) -> int:
    """Prints the overlap between the facts of an epoch.

    Args:
        args: ``facts_at``, ``by``, ``level``, ``html``, ``json`` and what ``run_of`` reads.
    """
    found = run_of(args).fact_overlap(args.facts_at, by=args.by or "relation", level=args.level)
    present(
        args,
        document=found.to_json,
        text=lambda: _print(found),
        page=lambda: _page(found),
    )
    return EXIT_OK


def _page(found: "BetweenFacts") -> str:
    from kcircuits.study.between.page import facts_page  # plotly loads late

    return facts_page(found)


def _print(found: "BetweenFacts") -> None:
    _print_head(found)
    _print_rows(found)
    _print_contrast(found)
    _print_clusters(found)


def _print_head(found: "BetweenFacts") -> None:
    digest = (found.checkpoint.content_hash or "")[:_HASH_DIGITS]
    mark = "" if found.checkpoint.is_verified else "  unverified"
    document = found.to_json()
    print(
        f"{styled(f'facts at {printable(found.epoch)}', 'bold')}  {digest}{mark}\n"
        f"  {found.provenance.method}; top {found.n_edges:,} of {found.topology.n_edges:,} edges, "
        f"{found.n_prompts} {document['prompts_are']} a fact, halved;\n"
        f"  {len(found.halved)} facts; overlaps count {found.level}s"
    )
    for reason, ids in found.left_out.items():
        print(f"  left out: {len(ids)} facts: {reason}")
    if found.n_meeting:
        print(f"  left out: {found.n_meeting} pairs whose halves share templates")


def _print_rows(found: "BetweenFacts") -> None:
    lines = []
    for row in found.rows:
        if not row["pairs"]:
            continue
        indent = "  " if row["stratum"] is not None else ""
        low, high = row["shared_low"], row["shared_high"]
        lines.append(
            [
                f"{indent}{printable(group_name(row, found.by))}",
                str(row["pairs"]),
                number_text(row["jaccard"], ".2f"),
                number_text(row["ceiling"], ".2f"),
                number_text(row["chance"], ".3f"),
                number_text(row["chance_matched"], ".3f"),
                number_text(row["shared"], ".2f"),
                "-" if low is None else f"[{low:.2f}, {high:.2f}]",
            ]
        )
    print()
    headers = ["pairs of facts of", "pairs", "Jaccard", "ceiling", "chance", "by layers"]
    print_aligned([*headers, "shared", "interval"], lines)
    print(
        styled(
            "  Jaccard of half the prompts of one fact with the other half of the other's;\n"
            "  shared: 1 as alike as the halves of one fact, 0 chance; by layers: chance for\n"
            "  circuits with as many edges between the same layers",
            "dim",
        )
    )


def _print_contrast(found: "BetweenFacts") -> None:
    result = found.contrast
    word = styled(CONTRASTS[result.word], _STYLES[result.word])
    print(f"\n  {word}: {printable(result.reason)}")
    value = result.difference
    if value.n_entities:
        reach = "" if value.low != value.low else f" [{value.low:+.2f}, {value.high:+.2f}]"
        print(
            f"  facts of one {printable(found.by)} share {value.estimate:+.2f}{reach} more than "
            "facts of two"
        )


def _print_clusters(found: "BetweenFacts") -> None:
    clusters = found.clusters
    print(styled("\nGroups of facts by their circuits", "bold"))
    count = f"{clusters.n_clusters} " if clusters.word == "clusters" else ""
    word = styled(f"{count}{CLUSTERS[clusters.word]}", _STYLES[clusters.word])
    print(f"  {word}: {printable(clusters.reason)}")
    if clusters.word != "clusters":
        return
    for row in found.agreements:
        if row["rand"] is not None:
            print(
                f"  adjusted Rand index with {printable(row['label'])}: {row['rand']:.2f} "
                f"(p = {row['p']:.2g})"
            )
    for number in range(1, clusters.n_clusters + 1):
        members = [row for row in found.fact_rows if row["cluster"] == number]
        strata: dict[str, int] = {}
        for row in members:
            strata[row["stratum"]] = strata.get(row["stratum"], 0) + 1
        told = ", ".join(f"{printable(name)} {count}" for name, count in sorted(strata.items()))
        print(f"  group {number}: {len(members)} facts ({told})")
    alone = len(found.halved) - sum(row["cluster"] is not None for row in found.fact_rows)
    if alone:
        print(f"  in no group: {alone} facts")
