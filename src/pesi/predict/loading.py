"""Any classifier by its folder or name."""

from __future__ import annotations

from pathlib import Path

from pesi.bundle.installed import bundle_folder
from pesi.predict.classifier import Classifier


def load(path_or_name: str | Path | None = None, *, device: str | None = None) -> Classifier:
    """Open a classifier.

    Args:
        path_or_name: See `bundle.installed.bundle_folder`.
        device: Where to compute; default: a GPU if there is one.

    Raises:
        BundleError: There is no such bundle, or it is damaged or of another version.
    """
    return Classifier.load(bundle_folder(path_or_name), device=device)
