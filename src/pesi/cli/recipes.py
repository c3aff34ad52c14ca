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
    from pesi.train.recipe import Recipe
    from pesi.train.segmenter_recipe import SegmenterRecipe

    if name is not None:
        kind = SegmenterRecipe if name in SegmenterRecipe.shipped_names() else Recipe
        print(kind.load(name).to_toml(), end="")
        return
    for kind in (Recipe, SegmenterRecipe):
        for key in kind.shipped_names():
            recipe = kind.load(key)
            members = ", ".join(each.name for each in recipe.members) if isinstance(recipe, Recipe) else ""
            print(f"{key}: {recipe.description}" + f" With --folds a fold has: {members}." * bool(members))
