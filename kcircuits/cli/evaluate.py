"""``kcircuits evaluate REF``: how faithful the circuits of an epoch are."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli.options import add_memory, add_method, common, run_of
from kcircuits.cli.output import (
    interval_text,
    number_text,
    present,
    print_aligned,
    printable,
    prompt_bar,
    styled,
    warn,
)
from kcircuits.core.ablation import ABLATIONS
from kcircuits.engine.metrics import METRICS
from kcircuits.errors import EXIT_OK

if TYPE_CHECKING:
    from kcircuits.study.evaluation.evaluation import Evaluation

_HASH_DIGITS = 12
_AREAS = {"cpr": "CPR", "cmd": "CMD"}


def add_parser(subparsers: Any) -> None:
    """Adds the verb's parser."""
    parser = subparsers.add_parser(
        "evaluate",
        parents=[common()],
        help="how faithful the circuits of an epoch are",
        description="Takes the circuits of an epoch from the results of a run, loads the epoch's "
        "checkpoint and runs each fact's circuit on its evaluation prompts: faithfulness with its "
        "interval, Hit@10 and rank of the answer; on demand beside random circuits and at all "
        "sizes.",
    )
    add = parser.add_argument
    add("ref", metavar="REF", help="an epoch: ep3, step2400, first, last")
    add("--facts", metavar="LIST", help="ids and strata key=value, comma separated (default: all)")
    add_method(parser)
    add("--metric", metavar="NAME", help=f"{', '.join(METRICS)} (default: the run's)")
    add(
        "--ablation",
        metavar="NAME",
        help=f"what edges outside a circuit carry: {', '.join(ABLATIONS)} (default: the run's)",
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--fraction", type=float, help="edges of a circuit (default: the run's)")
    budget.add_argument("--n-edges", type=int, metavar="N", help="edges of a circuit, as a number")
    add(
        "--curve",
        action="store_true",
        help="circuits of .1 to 100%% of the edges: the areas CPR and CMD",
    )
    add(
        "--baseline",
        type=int,
        default=0,
        metavar="N",
        help="N random circuits of each kind beside each circuit: as many edges, layers matched, "
        "degrees matched",
    )
    add("--seed", type=int, default=0, metavar="N", help="of intervals and random circuits")
    add("--device", default="cpu", help="where to compute (default: cpu)")
    add_memory(parser)
    add("--html", type=Path, metavar="FILE", help="also write a page to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Judges, and prints what came out."""
    from kcircuits.sweep.request import choose_facts

    opened = run_of(args)
    chosen = choose_facts(opened.facts, args.facts)
    with prompt_bar("evaluating", quiet=args.quiet) as progress:
        evaluation = opened.evaluate(
            args.ref,
            fact_ids=[fact.id for fact in chosen],
            manifest=args.manifest,
            ablation=args.ablation,
            metric=args.metric,
            n_edges=args.n_edges,
            fraction=args.fraction,
            curve=args.curve,
            n_draws=args.baseline,
            seed=args.seed,
            device=args.device,
            memory=args.memory,
            progress=progress,
        )
    present(
        args,
        document=evaluation.to_json,
        text=lambda: _print_evaluation(evaluation),
        page=lambda: _page(evaluation),
    )
    if evaluation.left_out:
        n, first = len(evaluation.left_out), evaluation.left_out[0]
        warn(f"{n} facts have no numbers at {evaluation.epoch}, e.g. {first!r}: left out")
    return EXIT_OK


def _page(evaluation: "Evaluation") -> str:
    from kcircuits.study.evaluation.page import evaluation_page  # plotly loads late

    return evaluation_page(evaluation)


def _print_evaluation(evaluation: "Evaluation") -> None:
    _print_head(evaluation)
    print()
    _print_facts(evaluation)
    _print_set(evaluation)
    _print_areas(evaluation)


def _print_facts(evaluation: "Evaluation") -> None:
    areas = list(_AREAS) if evaluation.curves else []
    headers = ["fact", "edges", "F", "interval", "Hit@10", "rank", "circuit", "model", "empty"]
    headers += [*evaluation.baselines, *(_AREAS[name] for name in areas)]
    names = ("hit_at_10", "target_rank", "metric", "clean_metric", "empty_metric")
    rows = evaluation.fact_rows
    lines = [
        [
            printable(row["fact"]),
            str(row["edges"]),
            "unknown" if row["is_gated"] else number_text(row["faithfulness"], ".2f"),
            interval_text(row),
            *(number_text(row[name], ".2f") for name in (*names, *evaluation.baselines)),
            *(number_text(row[name], ".3f") for name in areas),
        ]
        for row in rows
    ]
    print_aligned(headers, lines)
    note = (
        f"  F: faithfulness, 0 without any edge, 1 as the model; circuit, model, empty: their "
        f"{evaluation.metric}"
    )
    if evaluation.baselines:
        note += (
            "\n  size, layer, degree: mean F of random circuits of as many edges; between the same"
            "\n  layers; at the same nodes"
        )
    if any(row["is_gated"] for row in rows):
        note += "\n  unknown: model and empty are too close to be divided by; not counted below"
    print(styled(note, "dim"))


def _print_head(evaluation: "Evaluation") -> None:
    judged, n_edges = evaluation.faithfulness, int(evaluation.circuits.n_selected[0])
    n_total = evaluation.circuits.topology.n_edges
    params = ", ".join(f"{name} {value}" for name, value in sorted(evaluation.params.items()))
    prompts = sorted({row["prompts"] for row in evaluation.fact_rows})
    print(
        styled(evaluation.epoch, "bold") + f"  {evaluation.content_hash[:_HASH_DIGITS]}\n"
        f"  {evaluation.method}{f' ({printable(params)})' if params else ''}\n"
        f"  top {n_edges:,} of {n_total:,} edges ({n_edges / n_total:.2%}), the others ablated: "
        f"{judged.ablation}\n"
        f"  {evaluation.metric} ({evaluation.unit}) on "
        f"{' or '.join(map(str, prompts))} evaluation prompts a fact"
        + ("; some have none: all are judged on their discovery prompts" * _is_same(evaluation))
    )


def _is_same(evaluation: "Evaluation") -> bool:
    return evaluation.faithfulness.prompts == "same"


def _print_set(evaluation: "Evaluation") -> None:
    rows, drawn = evaluation.set_rows, list(evaluation.baselines)
    heading = f"  ({rows[0]['facts']} facts about {rows[0]['subjects']} subjects)"
    print(styled("\nAll facts", "bold") + heading)
    lines = [
        [
            row["set"],
            number_text(row["faithfulness"], ".3f"),
            interval_text(row, form=".3f"),
            *(number_text(row[name], ".3f") for name in drawn),
        ]
        for row in rows
    ]
    print_aligned(["", "F", "interval", *drawn], lines)


def _print_areas(evaluation: "Evaluation") -> None:
    rows = evaluation.area_rows
    if not rows:
        return
    note = "  (over circuits of .1 to 100% of the edges; CPR: higher is better, CMD: lower)"
    print(styled("\nAreas", "bold") + note)
    lines = [
        [
            _AREAS[row["area"]],
            row["set"],
            number_text(row["value"], ".3f"),
            interval_text(row, form=".3f"),
        ]
        for row in rows
    ]
    print_aligned(["area", "set", "value", "interval"], lines, left=(0, 1))
