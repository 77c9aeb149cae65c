"""The console script: finds the verb, runs it, and turns every error into message and exit code."""

import contextlib
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from kcircuits import __version__
from kcircuits.cli.options import Parser, switched_on
from kcircuits.cli.output import print_error
from kcircuits.cli.verbs import VERBS
from kcircuits.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_OK,
    FileAccessError,
    KCircuitsError,
    UsageError,
)

_DESCRIPTION = "Knowledge circuits over the epochs of a continual pre-training run."
_EPILOG = (
    "kcircuits VERB --help tells the options of a verb. "
    "Each option --some-option can be given as KCIRCUITS_SOME_OPTION."
)


class _BugError(KCircuitsError):
    exit_code = EXIT_BUG
    code = "bug"


class _InterruptedError(KCircuitsError):
    exit_code = EXIT_INTERRUPTED
    code = "interrupted"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; default those of the process.

    Returns:
        The exit code; the table is in ``kcircuits.errors``.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    try:
        code = _run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader (head, a pager) has gone: nothing can be told, and the interpreter must not
        # fail again when it flushes at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FileAccessError.exit_code
    except (Exception, KeyboardInterrupt) as error:
        return _report(error, args)


def _run(args: list[str]) -> int:
    try:
        parsed = _parse(args)
    except SystemExit as stop:  # argparse has printed help or version
        return EXIT_OK if stop.code is None else int(stop.code)
    return parsed.run(parsed) if hasattr(parsed, "run") else EXIT_OK


def _parse(args: list[str]):
    parser = Parser(prog="kcircuits", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"kcircuits {__version__}")
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB")
    verb = next((arg for arg in args if not arg.startswith("-")), None)
    if verb is None:
        for name, (_, summary) in sorted(VERBS.items()):
            subparsers.add_parser(name, help=summary, add_help=False)
        return parser.parse_args(args or ["--help"])
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        known = f"the verbs are {', '.join(sorted(VERBS))}"
        raise UsageError(
            f"there is no verb {verb!r}",
            field="verb",
            hint=f"did you mean kcircuits {close[0]}? {known}" if close else known,
        )
    importlib.import_module(f"kcircuits.cli.{VERBS[verb].module}").add_parser(subparsers)
    at = args.index(verb)
    if {"-h", "--help", "--version"} & set(args[:at]):
        return parser.parse_args(args)
    return parser.parse_args([verb, *args[:at], *args[at + 1 :]])


def _report(error: BaseException, args: Sequence[str]) -> int:
    if _flag(args, "debug"):
        traceback.print_exception(error)
    known = _as_user_error(error)
    with contextlib.suppress(BrokenPipeError):
        print_error(known, as_json=_flag(args, "json"))
        sys.stdout.flush()
    return known.exit_code


def _flag(args: Sequence[str], name: str) -> bool:
    before_rest = args[: args.index("--")] if "--" in args else args
    try:
        return f"--{name}" in before_rest or switched_on(name)
    except UsageError:  # told already, or about to be
        return False


def _as_user_error(error: BaseException) -> KCircuitsError:
    if isinstance(error, KCircuitsError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return _InterruptedError("interrupted", hint="run the same command again to go on")
    if isinstance(error, OSError):
        return FileAccessError(
            error.strerror or str(error),
            file=error.filename,
            hint="check the path, its permissions and the free space",
        )
    return _BugError(
        f"this is a bug of kcircuits: {type(error).__name__}: {error}",
        hint="run the same command with --debug and report what it prints",
    )


if __name__ == "__main__":
    sys.exit(main())
