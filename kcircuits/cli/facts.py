"""``kcircuits facts check``: is a facts file fit for circuits, and what is in it."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kcircuits.cli.options import common
from kcircuits.cli.output import print_error, print_json, print_table, printable, warn
from kcircuits.errors import EXIT_OK, FactsError

# METHODS: with fewer discovery prompts the halves of a fact say nothing.
_MIN_DISCOVERY = 4
_MAX_PROBLEMS = 20


def add_parser(subparsers: Any) -> None:
    """Add ``facts`` with its one sub-verb."""
    facts = subparsers.add_parser("facts", help="check a facts file")
    verbs = facts.add_subparsers(title="verbs", metavar="VERB", required=True)
    check = verbs.add_parser(
        "check",
        parents=[common(paths=False)],
        help="all problems of a facts file, and what it holds",
        description="List all problems (the first 20) and count facts and prompts. "
        "Exit code 3 if there is a problem.",
    )
    check.add_argument("file", type=Path, metavar="FILE", help="a facts.jsonl")
    check.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="a model's folder: check token counts and continuations too",
    )
    check.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check the file and print what was found."""
    from kcircuits.io.facts import scan_facts

    facts, problems = scan_facts(args.file, max_problems=_MAX_PROBLEMS)
    tokens = None
    if args.tokenizer is not None and facts and len(problems) < _MAX_PROBLEMS:
        tokens, more = _token_counts(args, facts, _MAX_PROBLEMS - len(problems))
        problems = (*problems, *more)
    summary = _summary(facts, tokens)
    warnings = _warnings(facts)
    if args.json:
        told = [problem.to_json()["error"] for problem in problems]
        error = {"error": told[0]} if told else {}
        content = {"file": str(args.file), **summary, "warnings": warnings, "problems": told}
        print_json("kcircuits.facts-check/1", content | error)
    else:
        _print(args.file, summary)
        for warning in warnings:
            warn(warning)
        for problem in problems:
            print_error(problem, as_json=False)
        if len(problems) == _MAX_PROBLEMS:
            warn(f"stopped after {_MAX_PROBLEMS} problems")
    return FactsError.exit_code if problems else EXIT_OK


def _token_counts(
    args: argparse.Namespace, facts: Sequence[Any], max_problems: int
) -> tuple[dict[str, float] | None, list[FactsError]]:
    from kcircuits.models.prompts import encode_prompts
    from kcircuits.models.tokenizer import load_tokenizer

    rows, problems = encode_prompts(
        load_tokenizer(args.tokenizer), facts, max_problems=max_problems
    )
    for problem in problems:
        problem.file = str(args.file)
    counts = [len(row.clean) for row in rows]
    if not counts:
        return None, problems
    mean = sum(counts) / len(counts)
    return {"min": min(counts), "mean": round(mean, 2), "max": max(counts)}, problems


def _summary(facts: Sequence[Any], tokens: dict[str, float] | None) -> dict[str, Any]:
    strata: dict[str, Counter[str]] = {}
    for fact in facts:
        for key, value in fact.strata.items():
            strata.setdefault(key, Counter())[value] += 1
    uses = Counter(fact.use_of(i) for fact in facts for i in range(len(fact.prompts)))
    return {
        "facts": len(facts),
        "subjects": len({fact.subject for fact in facts}),
        "prompts": {use: uses[use] for use in ("discovery", "evaluation", "probe")},
        "relations": dict(sorted(Counter(fact.relation for fact in facts).items())),
        "strata": {key: dict(sorted(counts.items())) for key, counts in sorted(strata.items())},
        "tokens": tokens,
    }


def _warnings(facts: Sequence[Any]) -> list[str]:
    few = [fact for fact in facts if len(fact.prompt_indices("discovery")) < _MIN_DISCOVERY]
    unjudged = [fact for fact in facts if not fact.prompt_indices("evaluation")]
    found: list[str] = []
    if few:
        found.append(
            f"{len(few)} of {len(facts)} facts have fewer than {_MIN_DISCOVERY} discovery prompts, "
            f"e.g. {few[0].id!r}: changes of their circuits cannot be told from noise"
        )
    if unjudged:
        found.append(
            f"{len(unjudged)} of {len(facts)} facts have no evaluation prompt, "
            f"e.g. {unjudged[0].id!r}: their circuits cannot be judged"
        )
    return found


def _print(file: Path, summary: dict[str, Any]) -> None:
    uses = ", ".join(f"{n} {use}" for use, n in summary["prompts"].items())
    print(f"{printable(file)}: {summary['facts']} facts, {summary['subjects']} subjects; {uses}")
    if summary["tokens"]:
        print("tokens a prompt: {min} to {max}, mean {mean}".format(**summary["tokens"]))
    rows = [["relation", name, n] for name, n in summary["relations"].items()]
    for key, counts in summary["strata"].items():
        rows += [[key, value, n] for value, n in counts.items()]
    if rows:
        print_table(["by", "value", "facts"], rows)
