"""``kcircuits lab recipes``: the settings of training that ``lab train --recipe`` knows."""

import argparse
from typing import Any

from kcircuits.cli.options import common
from kcircuits.cli.output import print_json, print_table
from kcircuits.errors import EXIT_OK


def add_parser(verbs: Any) -> None:
    """Add ``recipes`` to the verbs of ``lab``."""
    recipes = verbs.add_parser(
        "recipes",
        parents=[common(paths=False)],
        help="settings of training by name",
        description="Prints the settings of every recipe and strategy. Without a seed in the table "
        "a recipe takes that of the benchmark.",
    )
    recipes.set_defaults(run=run_recipes)


def run_recipes(args: argparse.Namespace) -> int:
    """Print."""
    from kcircuits.lab.recipes import RECIPES, recipe_rows

    rows = recipe_rows()
    if args.json:
        print_json("kcircuits.lab-recipes/1", {"rows": rows})
        return EXIT_OK
    shown = [name for name in rows[0] if name != "models"]
    print_table(
        [name.replace("_", " ") for name in shown], [[row[name] for name in shown] for row in rows]
    )
    for recipe in RECIPES.values():
        print(f"{recipe.name}: {recipe.summary} ({', '.join(recipe.models)})")
    return EXIT_OK
