"""``kcircuits lab build | train | known | compare | skills``: benchmarks and training on them."""

from typing import Any

from kcircuits.cli import lab_build, lab_compare, lab_known, lab_skills, lab_study, lab_train


def add_parser(subparsers: Any) -> None:
    """Add ``lab`` with its sub-verbs."""
    lab = subparsers.add_parser("lab", help="make a benchmark and train on it")
    verbs = lab.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in (lab_build, lab_train, lab_study, lab_known, lab_compare, lab_skills):
        verb.add_parser(verbs)
