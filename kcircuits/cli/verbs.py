"""The registry of verbs: one line each, the only place that lists them.

A verb's module is imported only when the verb is called, so ``kcircuits --help`` needs none. It
offers ``add_parser(subparsers) -> None``, which adds the verb's parser and sets its default
``run``, a function from the parsed arguments to the exit code. Late imports (torch, plotly, a
model) belong inside that function. A module may hold more than one verb.
"""

from typing import NamedTuple


class Verb(NamedTuple):
    """Where a verb lives (a module of ``kcircuits.cli``) and the line that describes it."""

    module: str
    summary: str


VERBS: dict[str, Verb] = {
    "demo": Verb("demo", "the whole study on a small model, ending with a report"),
    "diff": Verb("diff", "what changed in the circuits between two epochs"),
    "doctor": Verb("doctor", "is the installation well, is the run, do the controls hold"),
    "dynamics": Verb("dynamics", "what the model knew from epoch to epoch"),
    "evaluate": Verb("evaluate", "how faithful the circuits of an epoch are"),
    "export": Verb("export", "write results in the formats of other tools"),
    "facts": Verb("facts", "check a facts file"),
    "manifest": Verb("manifest", "write, check or show the list of checkpoints"),
    "overlap": Verb("overlap", "how alike circuits are between all epochs"),
    "report": Verb("report", "write the report of a run, one HTML page"),
    "inspect": Verb("inspect", "all about one fact: prompts, epochs, edges and their history"),
    "lab": Verb("lab", "make a benchmark and train on it"),
    "link": Verb("link", "whether circuits change before facts are forgotten"),
    "lens": Verb("lens", "what heads and layers say about the answers, and where they read it"),
    "ls": Verb("status", "list runs, epochs or facts"),
    "run": Verb("run", "find and evaluate the circuits of all facts at all epochs"),
    "status": Verb("status", "cells done, due and failed"),
    "stopping": Verb("stopping", "what stopping rules would have kept and cost"),
    "track": Verb("track", "how circuits change from epoch to epoch"),
    "transfer": Verb("transfer", "what circuits of an epoch do on the weights of others"),
}
