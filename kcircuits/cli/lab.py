"""``kcircuits lab build | train | known | compare``: benchmarks, training, methods compared."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcircuits.cli import lab_skills
from kcircuits.cli.options import add_memory, common, parse_params
from kcircuits.cli.output import print_json, print_table, printable
from kcircuits.discovery import METHODS
from kcircuits.errors import EXIT_OK, UsageError
from kcircuits.lab.comparison import TRAINED_SIZES

if TYPE_CHECKING:
    from kcircuits.lab.known_facts import KnownFacts
    from kcircuits.lab.loop import Step

OUT = Path("lab")
# As in the registry, which is not asked: it would load torch.
STRATEGY_HELP = (
    "full (default), lora, annotated, curriculum, kl-base, kl-previous, main-docs or replay"
)


def add_parser(subparsers: Any) -> None:
    """Add ``lab`` with its sub-verbs."""
    lab = subparsers.add_parser("lab", help="make a benchmark and train on it")
    verbs = lab.add_subparsers(title="verbs", metavar="VERB", required=True)
    build = verbs.add_parser(
        "build",
        parents=[common(paths=False)],
        help="write facts.jsonl and documents.jsonl",
        description="Invents people, tells of them in documents and asks for them in prompts that "
        "no document holds; adds facts that the base model knows as controls. Refuses a benchmark "
        "whose groups differ in more than their frequency (matching.json, matching.html).",
    )
    build.add_argument("--preset", default="small", metavar="smoke|small", help="default: small")
    build.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    build.add_argument("--model", metavar="MODEL", help="another base model: name, folder, Hub id")
    build.set_defaults(run=run_build)
    train = verbs.add_parser(
        "train",
        parents=[common(paths=False)],
        help="train on the documents; save and probe every epoch",
        description="Continual pre-training on the documents of `lab build`. Saves the model at "
        "every epoch, the untrained one included, probes it, and writes the manifest. Goes on "
        "where it was killed.",
    )
    train.add_argument("--strategy", default="full", metavar="NAME", help=STRATEGY_HELP)
    train.add_argument("--epochs", type=int, metavar="N", help="default: the preset's")
    train.add_argument("--lr", type=float, metavar="RATE", help="default: the preset's")
    train.add_argument("--seed", type=int, metavar="N", help="default: the benchmark's")
    train.add_argument(
        "--skills",
        metavar="LIST",
        help="comma separated, or none: skills to measure at every epoch (default: the preset's)",
    )
    train.set_defaults(run=run_train)
    for verb in (build, train):
        verb.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"default: {OUT}")
    known = verbs.add_parser(
        "known",
        parents=[common(paths=False)],
        help="write a facts.jsonl that a model knows",
        description="Asks a model real facts and writes as many as are wanted of those that it "
        "knows by their discovery and by their evaluation prompts, spread over relations and over "
        "answers of one and of several tokens. No subject comes twice.",
    )
    known.add_argument("--model", required=True, metavar="MODEL", help="name, folder, Hub id")
    known.add_argument("--out", required=True, type=Path, metavar="FILE", help="a facts.jsonl")
    known.add_argument("--n", type=int, default=24, metavar="N", help="default: 24")
    known.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    known.set_defaults(run=run_known)
    compare = verbs.add_parser(
        "compare",
        parents=[common(paths=False)],
        help="compare methods of finding circuits",
        description="Finds circuits of every fact by each method, judges them on the evaluation "
        "prompts, and writes a table (comparison.json) and a page (comparison.html). Goes on where "
        "it was stopped: a method that the folder has is not run again.",
    )
    add = compare.add_argument
    add("--model", required=True, metavar="MODEL", help="name, folder, Hub id")
    add("--facts", required=True, type=Path, metavar="FILE", help="of lab known, or your own")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for table and page")
    add(
        "--methods",
        default=",".join(name for name in METHODS if name != "exact"),
        metavar="LIST",
        help="comma separated (default: all but exact, which runs the model once per edge)",
    )
    add(
        "--param",
        action="append",
        default=[],
        metavar="METHOD.NAME=VALUE",
        help="a parameter of a method, e.g. edge-pruning.steps=200; may be repeated",
    )
    add(
        "--sizes",
        default=",".join(f"{100 * size:g}" for size in TRAINED_SIZES),
        metavar="LIST",
        help="of circuits that a method is trained for, %% of all edges (default: %(default)s)",
    )
    add_memory(compare)
    compare.set_defaults(run=run_compare)
    lab_skills.add_parser(verbs)


def run_build(args: argparse.Namespace) -> int:
    """Build, and say what was built."""
    from kcircuits.io.atomic import write_atomic
    from kcircuits.io.facts import load_facts
    from kcircuits.lab.study import build
    from kcircuits.study.matching_page import matching_page

    with base_bar(args.quiet) as progress:
        built = build(args.preset, args.out, seed=args.seed, model=args.model, progress=progress)
    n_facts, n_documents = len(load_facts(built.facts)), len(built.documents)
    report, page = built.matching(), args.out / "matching.html"
    if not page.exists():
        write_atomic(page, matching_page(report, f"{built.preset}, seed {built.seed}"))
    if args.json:
        content = {"out": str(args.out), "facts": n_facts, "documents": n_documents}
        content |= {"base_model": str(built.base), "matching": str(page)}
        print_json("kcircuits.lab-build/1", content)
    else:
        print(f"{printable(args.out)}: {n_facts} facts, {n_documents} documents")
        print(f"groups match in all {len(report.matches)} comparisons: {printable(page)}")
    return EXIT_OK


def run_train(args: argparse.Namespace) -> int:
    """Train, and print loss and knowledge at every epoch."""
    from kcircuits.lab.study import knowledge_table, open_lab, train_built

    built = open_lab(args.out)
    with training_bar(args.quiet) as progress:
        manifest = train_built(
            built,
            strategy=args.strategy,
            n_epochs=args.epochs,
            lr=args.lr,
            seed=args.seed,
            skills=_skills(args.skills, built.preset),
            progress=progress,
        )
    rows = knowledge_table(manifest)
    if args.json:
        content = {"manifest": str(manifest.path), "run": manifest.run, "rows": rows}
        print_json("kcircuits.lab-train/1", content)
    else:
        print_table(list(rows[0]), [list(row.values()) for row in rows])
        print(f"wrote {printable(manifest.path)}")
    return EXIT_OK


def _skills(given: str | None, preset: str) -> tuple[str, ...]:
    from kcircuits.lab.presets import PRESETS

    if given is None:
        return PRESETS[preset].skills
    return () if given == "none" else tuple(given.split(","))


def run_known(args: argparse.Namespace) -> int:
    """Draw, write, and print what was asked, known and drawn of each relation."""
    from tqdm import tqdm

    from kcircuits.io.atomic import make_folder
    from kcircuits.io.facts import write_facts
    from kcircuits.lab.known_facts import draw_known_facts, require_draw
    from kcircuits.models import fetch_model, load_model

    require_draw(args.n, args.seed)
    if args.out.is_dir():
        raise UsageError("that is a folder", file=args.out, field="out", hint="name the file")
    make_folder(args.out.parent)
    model = load_model(fetch_model(args.model))
    with tqdm(desc="asking", unit="fact", disable=args.quiet) as bar:
        known = draw_known_facts(model, args.n, args.seed, progress=bar.update)
    write_facts(known.facts, args.out)
    if args.json:
        content = {"out": str(args.out), "facts": len(known.facts), "rows": known_rows(known)}
        print_json("kcircuits.lab-known/1", content)
    else:
        rows = known_rows(known)
        print_table(list(rows[0]), [list(row.values()) for row in rows])
        print(f"wrote {printable(args.out)}: {len(known.facts)} facts")
    return EXIT_OK


def known_rows(known: "KnownFacts") -> list[dict[str, Any]]:
    """A row for each relation of the pool.

    ``several`` counts the drawn facts whose answers have several tokens; ``gap`` is in logits, the
    mean over the drawn facts.
    """
    rows = []
    for relation, n_pool in known.n_pool.items():
        drawn = [fact for fact in known.facts if fact.relation == relation]
        gaps = [known.gaps[fact.id] for fact in drawn]
        rows.append(
            {
                "relation": relation,
                "pool": n_pool,
                "known": known.n_known[relation],
                "drawn": len(drawn),
                "several": sum(f.strata["answer_tokens"] == "several" for f in drawn),
                "gap": sum(gaps) / len(gaps) if gaps else None,
            }
        )
    return rows


def run_compare(args: argparse.Namespace) -> int:
    """Compare, write, and print the table."""
    from kcircuits.io.facts import load_facts
    from kcircuits.models import fetch_model, load_model, tokenize
    from kcircuits.study.comparison import PAGE, run_comparison

    methods = _methods_of(args)
    sizes = _sizes_of(args.sizes)
    facts = load_facts(args.facts)
    model = load_model(fetch_model(args.model))
    with comparing_bar(args.quiet) as progress:
        comparison = run_comparison(
            model,
            tokenize(model, facts),
            facts,
            methods,
            args.out,
            trained_sizes=sizes,
            memory=args.memory,
            progress=progress,
        )
    if args.json:
        print_json("kcircuits.lab-compare/1", comparison.to_json())
        return EXIT_OK
    rows = comparison.rows()
    shown = [name for name in rows[0] if not name.endswith(("_low", "_high"))]
    print_table(
        [name.replace("_", " ") for name in shown], [[row[name] for name in shown] for row in rows]
    )
    print(f"wrote {printable(args.out / PAGE)}")
    return EXIT_OK


def _methods_of(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Each wanted method with the parameters that were given for it, checked."""
    from kcircuits.discovery.registry import resolve_params
    from kcircuits.engine.metrics import DEFAULT_METRIC

    methods: dict[str, dict[str, Any]] = {name: {} for name in args.methods.split(",")}
    for given in args.param:
        name, _, rest = given.partition(".")
        if name not in methods or "=" not in rest:
            raise UsageError(
                f"--param is {given!r}; expected METHOD.NAME=VALUE with one of "
                f"{', '.join(methods)}",
                field="param",
                hint="e.g. edge-pruning.steps=200",
            )
        methods[name] |= parse_params([rest])
    for name, params in methods.items():
        resolve_params(name, DEFAULT_METRIC, params)
    return methods


def _sizes_of(text: str) -> list[float]:
    """Shares of all edges, from percentages."""
    try:
        sizes = [float(part) / 100 for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or sizes != sorted(set(sizes)) or not 0 < sizes[0] <= sizes[-1] < 1:
        raise UsageError(
            f"--sizes is {text!r}; expected percentages in ascending order",
            field="sizes",
            hint="e.g. .5,1,2,5",
        )
    return sizes


@contextmanager
def comparing_bar(quiet: bool) -> "Iterator[Callable[[str], Callable[[str, float], object]]]":
    """A progress bar for each method, from 0 to 1 anew for each thing that is done."""
    from tqdm import tqdm

    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    bars: dict[str, tqdm[Any]] = {}

    def begin(method: str) -> Callable[[str, float], object]:
        def advance(what: str, share: float) -> None:
            desc = f"{method}, {what}"
            if desc not in bars:
                bars[desc] = tqdm(total=1.0, desc=desc, bar_format=form, disable=quiet)
            bars[desc].update(share - bars[desc].n)

        return advance

    try:
        yield begin
    finally:
        for bar in bars.values():
            bar.close()


@contextmanager
def training_bar(quiet: bool) -> "Iterator[Callable[[Step], None]]":
    """A progress bar over the steps of all epochs, with the loss and tokens per second."""
    from tqdm import tqdm

    bar = tqdm(desc="training", unit="step", disable=quiet, dynamic_ncols=True)
    n_tokens = 0

    def advance(step: "Step") -> None:
        nonlocal n_tokens
        n_tokens += step.n_tokens
        if bar.total is None:
            bar.total = step.n_epochs * step.n_steps
            bar.initial = bar.n = (step.epoch - 1) * step.n_steps
        elapsed = bar.format_dict["elapsed"] or 1.0
        rate = f"{n_tokens / elapsed:.0f}"
        bar.set_postfix({"epoch": step.epoch, "loss": f"{step.loss:.2f}", "tokens/s": rate}, False)
        bar.update()

    with bar:
        yield advance


@contextmanager
def base_bar(quiet: bool) -> Iterator[Callable[[int, int, float], None]]:
    """A progress bar for a base model that is made on the spot; silent where none is."""
    from tqdm import tqdm

    bars: list[tqdm[Any]] = []

    def advance(step: int, n_steps: int, loss: float) -> None:
        if not bars:
            bars.append(tqdm(total=n_steps, desc="base model", unit="step", disable=quiet))
        bars[0].set_postfix({"loss": f"{loss:.2f}"}, refresh=False)
        bars[0].update(step - bars[0].n)

    try:
        yield advance
    finally:
        for bar in bars:
            bar.close()
