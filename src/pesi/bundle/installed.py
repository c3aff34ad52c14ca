"""The bundles that come with the package, and any bundle by its folder or name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pesi.bundle.files import bundle_kind, named_bundle
from pesi.errors import BundleError


def shipped_bundles() -> dict[str, Path]:
    """The classifiers that come with the package, by name."""
    folder = Path(str(files("pesi") / "bundles"))
    configs = sorted(folder.glob("*/config.json")) if folder.is_dir() else []
    return {path.parent.name: path.parent for path in configs if bundle_kind(path.parent) == "classifier"}


def bundle_folder(path_or_name: str | Path | None = None) -> Path:
    """The folder of a classifier's bundle.

    Args:
        path_or_name: A bundle's folder, or the name of one that ships with the package; None: the one that ships.

    Raises:
        BundleError: None ships.
    """
    shipped = shipped_bundles()
    if path_or_name is None:
        if not shipped:
            raise BundleError(
                "This version of pesi-cnn ships no trained bundle.",
                "Name one (--bundle RUN/bundle), or train it: pesi train pesi50 --data DIR, or pesi demo.",
            )
        return next(iter(shipped.values()))
    return named_bundle(path_or_name)
