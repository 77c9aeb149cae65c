"""Draws real facts for the splits of a benchmark, so that groups of different splits are paired.

Place i of a prior has the same relation in every split that has so many facts, and, as long as
there are enough, the same token counts of all prompts and an answer of one or of several tokens.
No subject is drawn twice, and no document names a control.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from kcircuits.errors import UsageError
from kcircuits.lab.benchmark.relations import RELATIONS
from kcircuits.lab.real.pool import Entry, count_priors
from kcircuits.lab.real.spec import PRIORS, SPLITS, RealSpec

# Names in the documents about invented people, which stand beside those about real facts.
_TOLD_OF_PEOPLE = tuple(value for relation in RELATIONS.values() for value in relation.values)

# Times that its relation was drawn, the relation, whether answers have several tokens, and token
# counts of the prompts; without those for all facts of the relation together.
Cell = tuple[int, str, bool, tuple[int, ...]]


def draw(entries: Sequence[Entry], spec: RealSpec) -> Mapping[str, list[Entry]]:
    """The entries of each split, in paired order.

    Args:
        entries: With their priors, in the order in which they are to be drawn.
        spec: How many.

    Raises:
        UsageError: There are too few of a prior.
    """
    drawn: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    for prior in PRIORS:
        wanted = {split: spec.facts.get(split, {}).get(prior, 0) for split in SPLITS}
        times: Counter[str] = Counter()
        for place in range(max(wanted.values())):
            splits = [split for split, n_facts in wanted.items() if n_facts > place]
            found = _next(entries, prior, splits, drawn, times)
            if found is None:
                raise _too_few(entries, prior, sum(wanted.values()))
            times[found[0].relation.name] += 1
            for split, entry in zip(splits, found, strict=True):
                drawn[split].append(entry)
    return drawn


def names(text: str, name: str) -> bool:
    """Whether a text holds a name as whole words, in whatever case."""
    return f" {name.casefold()} " in f" {text.casefold()} "


def _next(
    entries: Sequence[Entry],
    prior: str,
    splits: Sequence[str],
    drawn: Mapping[str, list[Entry]],
    times: Mapping[str, int],
) -> list[Entry] | None:
    """An entry for each split out of one cell of the relation that was drawn least so far.

    Answers of one token come first: they compare with those about people, and are quickly asked.
    """
    taken = {entry.subject.casefold() for group in drawn.values() for entry in group}
    cells: dict[Cell, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.prior == prior and entry.subject.casefold() not in taken:
            name = entry.relation.name
            cells[times.get(name, 0), name, len(entry.tokens) > 1, entry.shape].append(entry)
            cells[times.get(name, 0), name, True, ()].append(entry)
    for cell in sorted(cells, key=lambda cell: (cell[0], not cell[3], cell[2], -len(cells[cell]))):
        if found := _matched(cells[cell], splits, drawn):
            return found
    return None


def _matched(
    free: Sequence[Entry], splits: Sequence[str], drawn: Mapping[str, list[Entry]]
) -> list[Entry] | None:
    """The first entries that suit the splits, one each."""
    told = [entry for split in ("trained", "updated") for entry in drawn[split]]
    controls = list(drawn["control"])
    found: list[Entry] = []
    for split in splits:
        for entry in free:
            is_control = split == "control"
            if entry in found or _clashes(entry, told if is_control else controls, is_control):
                continue
            found.append(entry)
            (controls if is_control else told).append(entry)
            break
        else:
            return None
    return found


def _clashes(entry: Entry, others: Sequence[Entry], is_control: bool) -> bool:
    """Whether documents would name a control: this entry, or one of the others."""
    if is_control:
        texts = [*_TOLD_OF_PEOPLE, *(text for e in others for text in (e.subject, e.answer))]
        return any(names(text, entry.subject) for text in texts)
    return any(names(text, e.subject) for e in others for text in (entry.subject, entry.answer))


def _too_few(entries: Sequence[Entry], prior: str, n_wanted: int) -> UsageError:
    counts = count_priors(entries)
    told = "; ".join(
        f"{name}: " + ", ".join(f"{of.get(each, 0)} {each}" for each in PRIORS)
        for name, of in counts.items()
    )
    return UsageError(
        f"{n_wanted} real facts of prior {prior} are wanted in all splits together; the model's "
        f"pool has {told or 'none'}, of which no control may be named in a document",
        field="real",
        hint="ask for fewer facts, or for more relations",
    )
