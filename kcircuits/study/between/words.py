"""What overlaps between facts and runs are called in words, on the page and on the terminal."""

from typing import Any

GROUPS = {
    "within": "one {by}",
    "between": "two of them",
    "one-entity": "one entity",
    "two-relations": "two relations",
    "one-stratum-relations": "relation of one {by}",
}
CONTRASTS = {
    "more-alike": "more alike",
    "not-more-alike": "no more alike beyond noise",
    "undetermined": "cannot tell",
}
CLUSTERS = {
    "clusters": "groups",
    "no-clusters": "no groups beyond noise",
    "undetermined": "cannot tell",
}
VERDICTS = {
    "changed": "different",
    "no-change": "no difference beyond noise",
    "undetermined": "cannot tell",
}


def group_name(row: dict[str, Any], by: str) -> str:
    """The pairs of a row of ``BetweenFacts.rows``: pairs of facts of ..."""
    if row["stratum"] is not None:
        return str(row["stratum"])
    return GROUPS[row["group"]].format(by=by)
