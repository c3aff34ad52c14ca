"""The errors that a user can cause; each says what was wrong, where, and what to do about it."""

from __future__ import annotations


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
