"""The tables that ``kcircuits lens`` prints."""

from typing import TYPE_CHECKING, Any

from kcircuits.analysis.roles import ROLES
from kcircuits.cli.output import interval_text, number_text, print_aligned, printable, styled
from kcircuits.core.lenses import GROUPS

if TYPE_CHECKING:
    from kcircuits.study.lenses.lenses import RunLenses

Row = dict[str, Any]
_N_DEPTHS = 7


def print_lenses(lenses: "RunLenses", top: int) -> None:
    """Prints depths, parts, roles, the strongest heads and what changed of them."""
    n_facts = len(lenses.facts)
    print(
        styled(f"{printable(lenses.run)}", "bold")
        + f"  {n_facts} fact{'s' * (n_facts != 1)}, discovery prompts, answers by their first token"
    )
    _print_depths(lenses)
    _print_parts(lenses)
    _print_roles(lenses)
    _print_heads(lenses, top)
    _print_steps(lenses)
    _print_head_steps(lenses, top)


def _print_depths(lenses: "RunLenses") -> None:
    n_layers = lenses.topology.n_layers
    depths = sorted({round(i * n_layers / (_N_DEPTHS - 1)) for i in range(_N_DEPTHS)})
    rows = {(r["epoch"], r["stratum"], r["depth"]): r for r in lenses.lens_rows}
    names = {r["depth"]: r["after"] for r in rows.values()}
    print(styled("\nLogit lens", "bold") + "  (the answer's probability and rank after a layer)")
    lines = [
        [
            printable(epoch),
            printable(stratum),
            *(
                f"{number_text(row['prob'], '.3f')} #{number_text(row['rank'], '.0f')}"
                for row in (rows[epoch, stratum, depth] for depth in depths)
            ),
        ]
        for epoch in lenses.epochs
        for stratum in dict.fromkeys(stratum for _, stratum, _ in rows)
    ]
    print_aligned(["epoch", "stratum", *(names[d] for d in depths)], lines, left=(0, 1))
    print(styled("  mean over facts; ranks as geometric mean, 1 is best", "dim"))


def _print_parts(lenses: "RunLenses") -> None:
    print(
        styled("\nWhere the answer's logit comes from", "bold")
        + "  (logits above the vocabulary's mean; heads by the positions they read)"
    )
    names = (*GROUPS, "mlps", "embedding", "constant", "total")
    lines = [
        [
            printable(row["epoch"]),
            printable(row["stratum"]),
            *(number_text(row[n], "+.2f") for n in names),
        ]
        for row in lenses.part_rows
    ]
    print_aligned(["epoch", "stratum", *names], lines, left=(0, 1))


def _print_roles(lenses: "RunLenses") -> None:
    rows = lenses.role_rows
    if not rows:
        print("\nNo roles: no prompt has tokens of both subject and relation")
        return
    print(styled("\nRoles", "bold") + "  (heads per fact)")
    lines = [
        [
            printable(row["epoch"]),
            printable(row["stratum"]),
            row["role"],
            str(row["facts"]),
            number_text(row["heads"], ".2f"),
            interval_text(row, form=".2f"),
            number_text(row["against"], ".2f"),
            number_text(row["replicated"], ".2f"),
            number_text(row["chance"], ".2f"),
        ]
        for row in rows
    ]
    headers = ["epoch", "stratum", "role", "facts", "heads", "interval", "against"]
    print_aligned([*headers, "replicated", "chance"], lines, left=(0, 1, 2))
    print(
        styled(
            "  mover: its contribution from the subject is 10 times that from the relation; "
            "relation: the\n  other way round; mixture: between; against: it lowers the answer's "
            "logit; replicated: in\n  both halves of the prompts, beside what chance gives",
            "dim",
        )
    )


def _print_heads(lenses: "RunLenses", top: int) -> None:
    last = lenses.epochs[-1]
    rows = [row for row in lenses.head_rows(top) if row["epoch"] == last]
    if not rows:
        return
    print(styled(f"\nStrongest heads at {printable(last)}", "bold") + "  (logits, mean over facts)")
    lines = [
        [
            row["head"],
            row["role"] or "-",
            number_text(row["contribution"], "+.2f"),
            interval_text(row, form="+.2f"),
            *(number_text(row[name], "+.2f") for name in GROUPS),
            number_text(row["attention_subject"], ".2f"),
            number_text(row["attention_relation"], ".2f"),
            "/".join(f"{row[f'{n}_facts']:.0%}" for n in ROLES),
        ]
        for row in rows
    ]
    headers = ["head", "role", "contribution", "interval", *(f"of {name}" for name in GROUPS)]
    headers += ["sees subject", "relation", "mover/relation/mixture in"]
    print_aligned(headers, lines, left=(0, 1))


def _print_steps(lenses: "RunLenses") -> None:
    rows = lenses.step_rows
    if not rows:
        return
    print(styled("\nRoles that come and go", "bold") + "  (heads per fact, in both halves)")
    lines = [
        [
            f"{printable(row['from'])} -> {printable(row['to'])}",
            printable(row["stratum"]),
            row["role"],
            *(number_text(row[n], ".2f") for n in ("acquired", "lost", "noise")),
            number_text(row["excess"], "+.2f"),
            interval_text(row, form="+.2f"),
        ]
        for row in rows
    ]
    headers = ["step", "stratum", "role", "acquired", "lost", "noise", "excess", "interval"]
    print_aligned(headers, lines, left=(0, 1, 2))
    print(
        styled(
            "  noise: what acquired and lost would each be if nothing had changed; excess: "
            "acquired + lost\n  - 2 noise, above 0 where roles changed beyond noise",
            "dim",
        )
    )


def _print_head_steps(lenses: "RunLenses", top: int) -> None:
    rows = lenses.head_step_rows(top)
    if not rows:
        return
    start, stop = printable(rows[0]["from"]), printable(rows[0]["to"])
    print(
        styled(f"\nHeads whose role changed most, {start} -> {stop}", "bold")
        + f"  (in how many of {rows[0]['facts']} facts)"
    )
    lines = [
        [row["head"], row["role"], *(f"{row[n]:.1f}" for n in ("acquired", "lost", "noise"))]
        for row in rows
    ]
    print_aligned(["head", "role", "acquired", "lost", "noise"], lines, left=(0, 1))
