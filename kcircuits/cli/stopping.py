"""``kcircuits stopping``: stopping rules replayed on finished runs."""

import argparse
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from kcircuits.cli.dynamics import add_runs, run_folders
from kcircuits.cli.options import common
from kcircuits.cli.output import number_text, print_aligned, print_json, printable, styled
from kcircuits.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from kcircuits.analysis.stopping.rule import StoppingRule
    from kcircuits.study.dynamics.stopping import Stopping


def add_parser(subparsers: Any) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "stopping",
        parents=[common(paths=False)],
        help="what stopping rules would have kept and cost",
        description="Replays stopping rules on finished runs: the epoch that each keeps, epochs "
        "spent, knowledge and out-of-domain accuracy there, and what is lost against the best "
        "epoch in hindsight. Each chooses on half of the entities and is scored on the other.",
    )
    add_runs(parser)
    add = parser.add_argument
    add("--kind", metavar="NAME", help="only probes of this kind (default: all)")
    add(
        "--rule",
        action="append",
        metavar="NAME[:KEY=VALUE,...]",
        help="a rule with its settings, e.g. probe-peak:patience=2; may be repeated, with other "
        "settings too (default: all)",
    )
    add("--splits", type=int, default=20, metavar="N", help="into halves (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the splits")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replays and prints."""
    from kcircuits.analysis.stopping.registry import RULES
    from kcircuits.study.dynamics.stopping import replay_rules

    stopping = replay_rules(
        *run_folders(args),
        rules=_rules(args.rule or list(RULES)),
        facts=args.facts,
        kind=args.kind,
        seed=args.seed,
        n_splits=args.splits,
    )
    if args.json:
        document = stopping.to_json()
        print_json(document.pop("schema"), document)
    else:
        _print(stopping)
    return EXIT_OK


def _rules(given: Sequence[str]) -> "dict[str, StoppingRule]":
    """Rules by name; where a name is there several times, by name and settings."""
    from kcircuits.analysis.stopping.registry import stopping_rule

    asked = [_name_and_settings(text) for text in given]
    rules: dict[str, StoppingRule] = {}
    for name, settings in asked:
        rule = stopping_rule(name, **settings)
        if rule in rules.values():
            raise UsageError(
                f"--rule names {_label(name, settings)} with the same settings twice",
                field="rule",
                hint="leave one of them out, or change a setting",
            )
        is_alone = sum(other == name for other, _ in asked) == 1
        rules[name if is_alone else _label(name, settings)] = rule
    return rules


def _label(name: str, settings: Mapping[str, float]) -> str:
    told = ",".join(f"{key}={value}" for key, value in settings.items())
    return f"{name}:{told}" if told else name


def _name_and_settings(text: str) -> tuple[str, dict[str, float]]:
    """What ``NAME[:KEY=VALUE,...]`` says."""
    name, _, given = text.partition(":")
    settings: dict[str, float] = {}
    for pair in given.split(",") if given else ():
        key, _, value = pair.partition("=")
        if key in settings:
            raise UsageError(
                f"--rule {text!r} has {key} twice; expected each setting once",
                field="rule",
                hint="leave one of them out; to compare settings, give --rule once for each",
            )
        try:
            settings[key] = int(value) if value.isdigit() else float(value)
        except ValueError:
            raise UsageError(
                f"--rule has {pair!r}; expected KEY=NUMBER", field="rule", hint="e.g. patience=2"
            ) from None
    return name, settings


def _print(stopping: "Stopping") -> None:
    def run_of(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["model"], row["strategy"], row["seed"]

    for i, (_, group) in enumerate(groupby(stopping.rows, run_of)):
        rows = list(group)
        print("\n" * (i > 0) + styled(_heading(rows[0]), "bold"))
        heads = ["rule", "keeps", "stops", "spent", rows[0]["measure"], "OOD", "cost"]
        print_aligned(heads, [_line(row) for row in rows])
        for row in rows:
            if row["note"]:
                print(styled(f"  {row['rule']}: {row['note']}", "dim"))
    print(
        styled(
            "\nkeeps, stops: epochs on all probes; spent, knowledge, OOD and cost: chosen on one "
            "half of the entities,\nscored on the other; cost: knowledge below the best epoch in "
            "hindsight, chosen and scored alike",
            "dim",
        )
    )
    _print_comparisons(stopping)


def _print_comparisons(stopping: "Stopping") -> None:
    if not stopping.comparisons:
        return
    print(styled("\nAgainst the lowest loss, over training seeds", "bold"))
    lines = [
        [
            ", ".join(printable(row[name]) for name in ("model", "strategy") if row[name]) or "run",
            row["rule"],
            str(row["seeds"]),
            number_text(row["difference"], "+.3f"),
            "-" if row["low"] is None else f"[{row['low']:+.3f}, {row['high']:+.3f}]",
            row["claim"],
        ]
        for row in stopping.comparisons
    ]
    heads = ["runs", "rule", "seeds", "knowledge", "interval", "claim"]
    print_aligned(heads, lines, left=(0, 1, 5))


def _heading(row: dict[str, Any]) -> str:
    parts = [row["model"], row["strategy"], None if row["seed"] is None else f"seed {row['seed']}"]
    name = ", ".join(printable(part) for part in parts if part is not None) or "run"
    note = "" if row["items_split"] or row["ood"] is None else "; OOD items not split"
    return f"{name}: {row['facts']} facts about {row['entities']} entities{note}"


def _line(row: dict[str, Any]) -> list[str]:
    forms = {"kept": "g", "stopped": "g", "spent": ".1f", "knowledge": ".3f", "ood": ".3f"}
    return [
        row["rule"],
        *(number_text(row[name], form) for name, form in forms.items()),
        number_text(row["cost"], "+.3f"),
    ]
