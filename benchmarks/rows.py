"""A table of training runs as a TOML file, expanded to rows: every variant, seed and split, each with its own files.

What a table holds is told in README.md, under "A table of one's own".
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pesi.errors import PesiError
from pesi.taxonomy import task_of
from pesi.train.recipe import Recipe, load_recipe

_NEEDED = ("title", "recipe", "splits", "seeds", "variants")
_OF_THE_FOLDS = ("folds", "fold_count", "group_folds", "find_duplicates")
_KEYS = {*_NEEDED, *_OF_THE_FOLDS, "set", "reference", "answers", "ages", "ranked"}
_OF_A_VARIANT = {"set", "share", "relatives", "network_of", "against"}
_LOOKS = ("views", "predict_regions")  # of a recipe: what changes no training
_SPLIT = re.compile(r"official|fold\d+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]*(-[A-Za-z0-9._]+)*")


@dataclass(frozen=True)
class Variant:
    """What a variant's rows have of their own.

    Attributes:
        overrides: Of the recipe: the table's `set`, then the variant's.
        share: Share of the training images that is used.
        relatives: What becomes of training images of a lesion that is held out, where the folds allow such: `drop`
            leaves them out, `keep` leaves as many others of each diagnosis out; "" does nothing.
        network_of: A variant whose networks are taken instead of training others: this one only looks otherwise
            (`views`, `predict_regions`).
        against: The variant of its table that it is compared with instead of the reference.
    """

    overrides: tuple[str, ...]
    share: float = 1.0
    relatives: str = ""
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


@dataclass(frozen=True)
class Folds:
    """A fold list's file, and how it is made where it is missing.

    Attributes:
        path: The CSV file.
        count: Number of folds.
        grouped: Whether the images of a patient, lesion or near-duplicate cluster share a fold.
        find_duplicates: Whether near-duplicates are looked for (slow for many images), or only those taken that the
            data set lists.
    """

    path: Path
    count: int = 5
    grouped: bool = True
    find_duplicates: bool = True


@dataclass(frozen=True)
class Table:
    """A table file, read.

    Attributes:
        path: The TOML file.
        title: What it compares.
        recipe_path: The recipe that all its rows start from.
        variants: In the file's order; the first is what the others are compared with.
        splits, seeds: In the file's order.
        folds: The fold list, and how it is made where there is none.
        reference: A table whose first variant is the reference instead of this one's.
        answers: Whether the page tells how far the probabilities can be believed.
        ages: The variant of which the page tells what the patient's age would add; "" none.
        ranked: Whether its variants are models of their own, which stand beside the published ones and predict the test
            images, and not steps of a search.
    """

    path: Path
    title: str
    recipe_path: Path
    variants: dict[str, Variant]
    splits: tuple[str, ...]
    seeds: tuple[int, ...]
    folds: Folds
    reference: Path | None = None
    answers: bool = False
    ages: str = ""
    ranked: bool = True

    @property
    def name(self) -> str:
        """Folder and stem, such as `attention/pesi18`."""
        return f"{self.path.parent.name}/{self.path.stem}"

    @property
    def rows_folder(self) -> Path:
        """Where the finished rows' files are."""
        return self.path.parent / self.path.stem / "rows"

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
        return load_recipe(self.recipe_path, [*row.settings.overrides, f"seed={row.seed}"])

    def files(self, row: Row) -> RowFiles:
        """The row's result files."""
        return RowFiles(self.rows_folder, row.name)


@dataclass(frozen=True)
class RowFiles:
    """The files of a finished row; `json`, written last, says that it is finished."""

    folder: Path
    name: str

    @property
    def held_out(self) -> Path:
        """Probabilities of the held-out images."""
        return self.folder / f"{self.name}.csv"

    @property
    def test(self) -> Path:
        """Probabilities of the data set's test images; not there where it has none."""
        return self.folder / f"{self.name}-test.csv"

    @property
    def json(self) -> Path:
        """How the row was made."""
        return self.folder / f"{self.name}.json"

    @property
    def finished(self) -> bool:
        """Whether the row is done."""
        return self.json.is_file()

    def read(self) -> dict[str, Any]:
        """What `json` holds.

        Raises:
            PesiError: It is damaged.
        """
        try:
            content: dict[str, Any] = json.loads(self.json.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PesiError(f"{self.json} cannot be read: {error}.", "Delete it, and run the row again.") from error
        return content


def load_table(path: str | Path) -> Table:
    """Read a table file; every variant's recipe is checked.

    Raises:
        PesiError: It is missing, not TOML, has a missing, unknown or bad entry, or a variant's recipe is at fault.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PesiError(f"Cannot read the table {path}: {error.strerror}.", "Give a table's TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise PesiError(f"{path} is not valid TOML: {error}.", "Correct that line.") from error
    for key in sorted(set(values) - _KEYS):
        raise PesiError(f"{path}: unknown entry {key!r}.", f"Known entries: {', '.join(sorted(_KEYS))}.")
    for key in _NEEDED:
        if not values.get(key):
            raise PesiError(f"{path}: there is no {key!r}.", f"A table needs {', '.join(_NEEDED)}.")
    for split in values["splits"]:
        if not _SPLIT.fullmatch(str(split)):
            raise PesiError(f"{path}: unknown split {split!r}.", 'A split is "official" or "fold0", "fold1", ...')
    if "official" in values["splits"] and len(values["splits"]) > 1:
        raise PesiError(f"{path}: official and folds in one table.", "Make two: they hold the same images out twice.")
    common = tuple(values.get("set", ()))
    variants = {}
    for name, variant in values["variants"].items():
        if not _NAME.fullmatch(name) or set(variant) - _OF_A_VARIANT:
            raise PesiError(
                f"{path}: variant {name!r} has a bad name or an entry other than {', '.join(sorted(_OF_A_VARIANT))}.",
                'A name is letters, digits, "." and "-"; write [variants."NAME"] and under it set = ["key=value"].',
            )
        settings = Variant(
            common + tuple(variant.get("set", ())),
            float(variant.get("share", 1.0)),
            variant.get("relatives", ""),
            variant.get("network_of", ""),
            variant.get("against", ""),
        )
        if not 0 < settings.share <= 1 or settings.relatives not in ("", "keep", "drop"):
            raise PesiError(
                f"{path}: variant {name!r} has a bad share or relatives.",
                'share is above 0 and at most 1; relatives is "keep" or "drop".',
            )
        variants[name] = settings
    table = Table(
        path,
        str(values["title"]),
        path.parent / values["recipe"],
        variants,
        tuple(values["splits"]),
        tuple(int(seed) for seed in values["seeds"]),
        Folds(
            path.parent / values.get("folds", "../isic2017/folds.csv"),
            int(values.get("fold_count", 5)),
            bool(values.get("group_folds", True)),
            bool(values.get("find_duplicates", True)),
        ),
        path.parent / values["reference"] if "reference" in values else None,
        bool(values.get("answers", False)),
        str(values.get("ages", "")),
        bool(values.get("ranked", True)),
    )
    if table.ages and table.ages not in variants:
        raise PesiError(f"{path}: ages names {table.ages!r}, which is no variant.", f"Variants: {', '.join(variants)}.")
    for name, settings in variants.items():
        if settings.against and settings.against not in set(variants) - {name}:
            raise PesiError(
                f"{path}: variant {name!r} cannot be compared with {settings.against!r}.",
                f"That must be another variant of this table: {', '.join(v for v in variants if v != name)}.",
            )
    names = [row.name for row in table.rows()]
    if len(set(names)) < len(names):
        raise PesiError(f"{path}: a split or seed stands twice.", "Name each once.")
    for row in table.rows()[: len(variants)]:
        task = table.recipe(row).task
        if task != "classes":
            task_of(task)
        _check_network(table, row)
    return table


def _check_network(table: Table, row: Row) -> None:
    """Raise PesiError if the row takes its network from a variant that trains another one, or none."""
    name = row.settings.network_of
    source = table.variants.get(name)
    if name and (source is None or source.network_of or not _train_alike(table, row, replace(row, settings=source))):
        raise PesiError(
            f"{table.path}: variant {row.variant!r} cannot take the networks of {name!r}.",
            f"That must be a variant that trains its own and differs in nothing but {' and '.join(_LOOKS)}.",
        )


def _train_alike(table: Table, row: Row, other: Row) -> bool:
    """Whether two rows of a seed and split differ at most in how their networks look."""
    data = [(each.settings.share, each.settings.relatives) for each in (row, other)]
    own, theirs = table.recipe(row), table.recipe(other)
    return data[0] == data[1] and own.model_copy(update={key: getattr(theirs, key) for key in _LOOKS}) == theirs


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
