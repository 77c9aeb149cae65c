"""``kcircuits lab VERB``: benchmarks, training on them, what models know and can do."""

from typing import Any

from kcircuits.cli import (
    lab_build,
    lab_circuits,
    lab_compare,
    lab_known,
    lab_probe,
    lab_recipes,
    lab_skills,
    lab_study,
    lab_train,
)

VERBS = (
    lab_build,
    lab_train,
    lab_study,
    lab_circuits,
    lab_probe,
    lab_recipes,
    lab_known,
    lab_compare,
    lab_skills,
)


def add_parser(subparsers: Any) -> None:
    """Add ``lab`` with its sub-verbs."""
    lab = subparsers.add_parser("lab", help="make a benchmark and train on it")
    verbs = lab.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add_parser(verbs)
