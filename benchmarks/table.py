"""A table of training runs as a TOML file, expanded to rows: every variant, seed and split.

What a table holds is told in README.md, under "A table of one's own".
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from pesi.errors import PesiError
from pesi.taxonomy import task_of
from pesi.train.recipe import Recipe, load_recipe

_LOOKS = ("views", "predict_regions")  # of a recipe: what changes no training
Split = Annotated[str, StringConstraints(pattern=r"^(official|fold\d+)$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._]*(-[A-Za-z0-9._]+)*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Variant(_Strict):
    """What a variant's rows have of their own.

    Attributes:
        overrides: Of the recipe, after the table's own.
        share: Share of the training images that is used.
        relatives: What becomes of training images of a lesion that is held out, where the folds allow such: `drop`
            leaves them out, `keep` leaves as many others of each diagnosis out; "" does nothing.
        network_of: A variant whose networks are taken instead of training others: this one only looks otherwise
            (`views`, `predict_regions`).
        against: The variant of its table that it is compared with instead of the reference.
    """

    overrides: tuple[str, ...] = Field((), alias="set")
    share: float = Field(1.0, gt=0, le=1)
    relatives: Literal["", "drop", "keep"] = ""
    network_of: str = ""
    against: str = ""


@dataclass(frozen=True)
class Row:
    """One training run of a table.

    Attributes:
        variant: The variant's name.
        seed: The recipe's seed: weights of the head, order and augmentation of the pictures.
        split: `"fold0"` and so on: that fold is held out; `"official"`: train -> val.
        settings: The variant.
    """

    variant: str
    seed: int
    split: str
    settings: Variant

    @property
    def name(self) -> str:
        """VARIANT-sSEED-SPLIT."""
        return f"{self.variant}-s{self.seed}-{self.split}"


class Table(_Strict):
    """A table file, read.

    Attributes:
        path: The TOML file.
        title: What it compares.
        recipe_file: The recipe that all its rows start from, beside the table.
        variants: In the file's order; the first is what the others are compared with.
        splits, seeds: In the file's order.
        overrides: Of the recipe, for all rows.
        folds: The fold list's file, beside the table.
        fold_count, group_folds, find_duplicates, fold_seed: How it is made where it is missing: see `pool.saved_folds`.
        reference: A table beside it whose first variant is the reference instead of this one's.
        answers: Whether the page tells how far the probabilities can be believed.
        ages: The variant of which the page tells what the patient's age would add; "" none.
        ranked: Whether its variants are models of their own, which predict the test images, and not steps of a search.
    """

    path: Path
    title: str = Field(min_length=1)
    recipe_file: str = Field(alias="recipe")
    variants: dict[Name, Variant] = Field(min_length=1)
    splits: tuple[Split, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    overrides: tuple[str, ...] = Field((), alias="set")
    folds: str = "../isic2017/folds.csv"
    fold_count: int = 5
    group_folds: bool = True
    find_duplicates: bool = True
    fold_seed: int = 2017
    reference: str = ""
    answers: bool = False
    ages: str = ""
    ranked: bool = True

    @model_validator(mode="after")
    def _whole(self) -> Table:
        if "official" in self.splits and len(self.splits) > 1:
            raise ValueError("official and folds in one table hold the same images out twice: make two")
        if len({row.name for row in self.rows()}) < len(self.rows()):
            raise ValueError("a split or seed stands twice")
        if self.ages and self.ages not in self.variants:
            raise ValueError(f"ages names {self.ages!r}, which is no variant")
        for name, settings in self.variants.items():
            if settings.against and settings.against not in set(self.variants) - {name}:
                raise ValueError(
                    f"variant {name!r} cannot be compared with {settings.against!r}, no other of its table"
                )
        for row in self.rows()[: len(self.variants)]:
            if not self._trains_alike(row):
                raise ValueError(
                    f"variant {row.variant!r} cannot take the networks of {row.settings.network_of!r}: that must be "
                    f"one that trains its own and differs in nothing but {' and '.join(_LOOKS)}"
                )
        return self

    def _trains_alike(self, row: Row) -> bool:
        """Whether the row trains its own network, or may take that of the variant that it names."""
        if not row.settings.network_of:
            return True
        source = self.variants.get(row.settings.network_of)
        if source is None or source.network_of:
            return False
        own, theirs = self.recipe(row), self.recipe(replace(row, settings=source))
        same_data = (row.settings.share, row.settings.relatives) == (source.share, source.relatives)
        return same_data and own.model_copy(update={key: getattr(theirs, key) for key in _LOOKS}) == theirs

    @property
    def name(self) -> str:
        """Folder and stem, such as `attention/pesi18`."""
        return f"{self.path.parent.name}/{self.path.stem}"

    @property
    def folds_path(self) -> Path:
        """The fold list's file."""
        return self.path.parent / self.folds

    @property
    def rows_folder(self) -> Path:
        """Where a row's own files are."""
        return self.path.with_suffix("") / "rows"

    @property
    def parquet(self) -> Path:
        """The packed rows' predictions."""
        return self.path.with_suffix(".parquet")

    @property
    def jsonl(self) -> Path:
        """How the packed rows were made."""
        return self.path.with_suffix(".jsonl")

    def rows(self) -> list[Row]:
        """All rows in the order of work: seed by seed, in it split by split, so that comparisons finish early."""
        return [
            Row(variant, seed, split, settings)
            for seed in self.seeds
            for split in self.splits
            for variant, settings in self.variants.items()
        ]

    def recipe(self, row: Row) -> Recipe:
        """The row's recipe.

        Raises:
            RecipeError: The recipe or an override is at fault.
        """
        return load_recipe(self.path.parent / self.recipe_file, [*self.settings(row), f"seed={row.seed}"])

    def settings(self, row: Row) -> list[str]:
        """What the row sets of the recipe, besides its seed."""
        return [*self.overrides, *row.settings.overrides]


def load_table(path: str | Path) -> Table:
    """Read a table file; every variant's recipe is checked.

    Raises:
        PesiError: It is missing, not TOML, has a missing, unknown or bad entry, or a variant's recipe is at fault.
    """
    path = Path(path)
    try:
        table = Table.model_validate({**tomllib.loads(path.read_text(encoding="utf-8")), "path": path})
    except OSError as error:
        raise PesiError(f"Cannot read the table {path}: {error.strerror}.", "Give a table's TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise PesiError(f"{path} is not valid TOML: {error}.", "Correct that line.") from error
    except ValidationError as error:
        mistake = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")  # a slip of the pen first
        where = "".join(f"{part}: " for part in mistake["loc"])
        cure = 'What a table holds is told in benchmarks/README.md, under "A table of one\'s own".'
        raise PesiError(f"{path}: {where}{mistake['msg'].removeprefix('Value error, ')}.", cure) from error
    for row in table.rows()[: len(table.variants)]:
        task = table.recipe(row).task
        if task != "classes":
            task_of(task)
    return table


def chosen(rows: Sequence[Row], patterns: Sequence[str]) -> list[Row]:
    """The rows whose name matches one of the patterns (`*`, `?`); all where there are none.

    Raises:
        PesiError: A pattern matches no row.
    """
    for pattern in patterns:
        if not any(fnmatchcase(row.name, pattern) for row in rows):
            example = rows[0].name if rows else "none"
            raise PesiError(f"No row matches {pattern!r}.", f"A row is called VARIANT-sSEED-SPLIT, such as {example}.")
    return [row for row in rows if not patterns or any(fnmatchcase(row.name, pattern) for pattern in patterns)]
