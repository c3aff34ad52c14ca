"""Any classifier by its folder or name."""

from __future__ import annotations

from pathlib import Path

from pesi.bundle.installed import bundle_folder
from pesi.predict.classifier import Classifier


def load(
    path_or_name: str | Path | None = None,
    *,
    device: str | None = None,
    runtime: str | None = None,
    precision: str | None = None,
) -> Classifier:
    """Open a classifier.

    Args:
        path_or_name: See `bundle.installed.bundle_folder`.
        device, runtime, precision: As for `Classifier.load`.

    Raises:
        BundleError: There is no such bundle, or it is damaged or of another version.
        PesiError: As `Classifier.load`.
    """
    return Classifier.load(bundle_folder(path_or_name), device=device, runtime=runtime, precision=precision)
