"""`pesi recipes`: which recipes ship, or one of them as TOML."""

from __future__ import annotations

from typing import Annotated

import typer


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe whole, as TOML.")] = None,
) -> None:
    """List the shipped recipes, or print one to start your own from.

    Examples:

        pesi recipes

        pesi recipes pesi50 > mine.toml
    """
    from pesi.train.recipe import load_recipe, shipped_recipes

    if name is not None:
        print(load_recipe(name).to_toml(), end="")
        return
    for key, recipe in shipped_recipes().items():
        print(f"{key}: {recipe.description}")
