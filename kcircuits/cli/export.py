"""``kcircuits export``: the results of a run in the formats of other tools.

The registry of formats: one line each, the only place that lists them. A format's module offers
``add_parser(subparsers) -> None``, as a verb's does, and needs no torch to be imported.
"""

import importlib
from typing import Any, NamedTuple


class Format(NamedTuple):
    """Where a format lives (a module of ``kcircuits.cli``) and the line that describes it."""

    module: str
    summary: str


FORMATS: dict[str, Format] = {
    "eap-ig": Format("export_eap_ig", "circuits as graphs of the EAP-IG library and of MIB"),
}


def add_parser(subparsers: Any) -> None:
    """Add ``export`` with a sub-verb per format."""
    export = subparsers.add_parser(
        "export",
        help="write results in the formats of other tools",
        description="Writes the results of a run in the format of another tool.",
    )
    formats = export.add_subparsers(title="formats", metavar="FORMAT", required=True)
    for form in FORMATS.values():
        importlib.import_module(f"kcircuits.cli.{form.module}").add_parser(formats)
