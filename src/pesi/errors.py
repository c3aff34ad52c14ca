"""The errors that a user can cause; each says what was wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PesiError(Exception):
    """A mistake of the user's or a limit of the machine's, told without a traceback.

    Args:
        problem: What is wrong and where (file, row, field).
        cure: What to do about it.
    """

    def __init__(self, problem: str, cure: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.problem}\n  -> {self.cure}" if self.cure else self.problem


class ChoiceError(PesiError, ValueError):
    """A name that is none of those that exist, with these, the nearest first."""

    def __init__(self, what: str, name: object, choices: Iterable[str]) -> None:
        known = list(choices)
        near = get_close_matches(str(name), known, n=2)
        cure = f"Did you mean {' or '.join(near)}? " if near else ""
        super().__init__(f"Unknown {what} {name!r}.", f"{cure}Choose one of: {', '.join(known)}.")


class SourceError(PesiError, TypeError):
    """Something given for an image that no image can be read from."""


class DataError(PesiError):
    """A data set, ground-truth file or record table that cannot be used as it is."""


class ImageError(PesiError):
    """One image that is refused; the rest of a batch goes on."""


class RecipeError(PesiError):
    """A training recipe with an unknown key or a value out of range."""


class BundleError(PesiError):
    """A bundle that is missing, damaged or of another version."""


class StorageError(PesiError):
    """A file that could not be written (full disk, no permission); nothing half-written is left."""
