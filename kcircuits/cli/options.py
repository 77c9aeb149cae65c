"""The command line's parser, the options that all verbs share, and what they mean.

Flag over environment over manifest over default: each long option ``--some-option`` of a verb
can be given as ``KCIRCUITS_SOME_OPTION``.
"""

import argparse
import json
import os
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kcircuits.errors import UsageError

if TYPE_CHECKING:
    from kcircuits.core.manifest import Manifest
    from kcircuits.study.run import Run

MANIFEST = Path("checkpoints_manifest.yaml")


class _Help(argparse.HelpFormatter):
    """Help that keeps names such as ``eap-ig-inputs`` whole."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError and reads ``KCIRCUITS_*``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, formatter_class=_Help, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise UsageError(message, hint=f"see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse with the environment's options in front, so that flags override them.

        Which those are is told as ``args.from_environment``, by their names in ``args``.
        """
        given = list(args or ())
        found = dict(self._from_environment(given))
        parsed, rest = super().parse_known_args([*found.values(), *given], namespace)
        inner = getattr(parsed, "from_environment", frozenset())  # of the verb's own parser
        parsed.from_environment = inner | frozenset(found)
        if rest and self._subparsers is None:  # the verb's own parser: its help is the remedy
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return parsed, rest

    def _from_environment(self, given: Sequence[str]) -> Iterator[tuple[str, str]]:
        flags = {arg.split("=")[0] for arg in given}
        for action in self._actions:
            name = next((s for s in action.option_strings if s.startswith("--")), None)
            value = os.environ.get(variable(action.dest))
            rivals = set(action.option_strings) | {
                flag
                for group in self._mutually_exclusive_groups
                if action in group._group_actions
                for member in group._group_actions
                for flag in member.option_strings
            }
            if name is None or value is None or action.dest == "version" or rivals & flags:
                continue
            if action.nargs != 0:
                yield action.dest, f"{name}={value}"
            elif switched_on(action.dest):
                yield action.dest, name


def variable(dest: str) -> str:
    """The environment variable of an option; ``--run DIR`` is ``KCIRCUITS_RUN``."""
    return "KCIRCUITS_" + dest.removesuffix("_dir").upper()


def switched_on(dest: str) -> bool:
    """Whether the environment sets a flag.

    Raises:
        UsageError: The variable holds neither a yes nor a no.
    """
    value = os.environ.get(variable(dest), "").lower()
    if value not in ("", "0", "1", "false", "true", "no", "yes", "off", "on"):
        raise UsageError(
            f"{variable(dest)}={value!r} is neither on nor off", field=dest, hint="set it to 1 or 0"
        )
    return value in ("1", "true", "yes", "on")


def common(*, paths: bool = True) -> argparse.ArgumentParser:
    """The options of every verb, to be given as ``parents=[common()]``.

    They arrive as ``args.run_dir``, ``args.manifest`` (both None where absent), ``args.json``,
    ``args.debug`` and ``args.quiet``.

    Args:
        paths: With ``--run DIR`` and ``--manifest FILE``.
    """
    parent = argparse.ArgumentParser(add_help=False)
    group = parent.add_argument_group("options of every verb")
    if paths:
        group.add_argument(
            "--run",
            dest="run_dir",
            type=Path,
            metavar="DIR",
            help="the run's folder (default: runs/<manifest's run> beside the manifest)",
        )
        group.add_argument(
            "--manifest", type=Path, metavar="FILE", help=f"the manifest (default: {MANIFEST})"
        )
    group.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    group.add_argument("--quiet", action="store_true", help="no progress on stderr")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parent


def add_method(parser: argparse.ArgumentParser) -> None:
    """Adds ``--method``, for the verbs that read results."""
    parser.add_argument(
        "--method",
        metavar="NAME",
        help="read the results by this method, where a run has several (default: the latest)",
    )


def add_memory(parser: argparse.ArgumentParser) -> None:
    """Adds ``--memory``, for the verbs that run a model."""
    parser.add_argument(
        "--memory",
        default="1GiB",  # engine.chunks.DEFAULT_MEMORY, which needs torch
        metavar="SIZE",
        help="peak memory above the loaded model to stay within; results do not depend on it "
        "(default: %(default)s)",
    )


def manifest_of(args: argparse.Namespace) -> "Manifest":
    """The manifest that ``--manifest`` names, or the one in the current folder."""
    from kcircuits.io.manifest import load_manifest

    return load_manifest(args.manifest or MANIFEST)


def run_dir_of(args: argparse.Namespace) -> Path:
    """The run folder: ``--run``, or ``runs/<run>`` beside the manifest."""
    if args.run_dir is not None:
        return args.run_dir
    manifest = manifest_of(args)
    folder = manifest.path.parent if manifest.path else Path()
    return folder / "runs" / manifest.run


def run_of(args: argparse.Namespace) -> "Run":
    """The results that ``--run`` (or the manifest) and ``--method`` name."""
    from kcircuits.study.run import open_run

    return open_run(run_dir_of(args), method=args.method)


def parse_params(given: Iterable[str]) -> dict[str, Any]:
    """Parameters of a method from ``NAME=VALUE``; values read as JSON where they are, else text."""
    params: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(
                f"--param is {text!r}; expected NAME=VALUE", field="param", hint="e.g. steps=200"
            )
        try:
            params[name] = json.loads(value)
        except ValueError:
            params[name] = value
    return params
