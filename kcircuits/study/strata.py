"""Facts by stratum: a key of ``strata``, or their relation."""

from collections.abc import Sequence

from kcircuits.core.facts import Fact
from kcircuits.errors import UsageError

ALL = "all"
NO_STRATUM = "(none)"


def stratum_of(fact: Fact, by: str | None) -> str:
    """The fact's stratum under a key, or its relation; ``all`` without a key."""
    if by is None:
        return ALL
    return fact.relation if by == "relation" else fact.strata.get(by, NO_STRATUM)


def require_stratum(by: str | None, facts: Sequence[Fact]) -> None:
    """UsageError where no fact has a stratum under a key."""
    if by is None or by == "relation" or any(by in fact.strata for fact in facts):
        return
    keys = sorted({key for fact in facts for key in fact.strata} | {"relation"})
    raise UsageError(
        f"no fact has a stratum {by!r}", field="by", hint=f"choose one of {', '.join(keys)}"
    )


def strata_of(facts: Sequence[Fact], by: str | None) -> dict[str, list[int]]:
    """Places of the facts of each stratum; strata by name.

    Raises:
        UsageError: No fact has a stratum under the key.
    """
    require_stratum(by, facts)
    places: dict[str, list[int]] = {}
    for place, fact in enumerate(facts):
        places.setdefault(stratum_of(fact, by), []).append(place)
    return dict(sorted(places.items()))
