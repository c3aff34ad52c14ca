"""Any bundle by its folder or name: those that come with the package, and those on the hub."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pesi.bundle.files import CONFIG, bundle_kind
from pesi.bundle.hub import HubName, hub_folder, hub_name
from pesi.errors import BundleError


def shipped_bundles() -> dict[str, Path]:
    """The classifiers that come with the package, by name."""
    folder = Path(str(files("pesi") / "bundles"))
    configs = sorted(folder.glob("*/config.json")) if folder.is_dir() else []
    return {path.parent.name: path.parent for path in configs if bundle_kind(path.parent) == "classifier"}


def named_bundle(path_or_name: str | Path) -> Path:
    """The folder of a bundle of any kind.

    Args:
        path_or_name: Its folder; or, where there is none of that name, the name of one that comes with the package; or
            `hf://OWNER/NAME[@REVISION]`, which is fetched from the hub.

    Raises:
        BundleError: The hub has no such bundle, or cannot be reached.
    """
    name = hub_name(path_or_name)
    if name is not None:
        return hub_folder(name)
    folder = Path(path_or_name)
    if (folder / CONFIG).is_file() or folder.name != str(path_or_name):
        return folder
    shipped = Path(str(files("pesi") / "bundles")) / folder.name
    return shipped if (shipped / CONFIG).is_file() else folder


def pretrained_folder(
    name: str | Path,
    *,
    revision: str | None = None,
    max_bytes: int | None = None,
    endpoint: str | None = None,
    token: str | None = None,
) -> Path:
    """The folder of a bundle as other libraries name it: like `named_bundle`, and OWNER/NAME without `hf://`.

    Raises:
        BundleError: As `named_bundle`; or a revision of what is not on the hub, or two of them.
    """
    found = hub_name(name)
    if found is None and not Path(name).exists() and str(name).count("/") == 1 and not str(name).startswith((".", "~")):
        found = hub_name(f"hf://{name}")
    if found is None:
        if revision is not None:
            raise BundleError(f"{name} is not on the hub, so it has no revision {revision}.", "Leave the revision out.")
        return named_bundle(name)
    if revision is not None and found.revision is not None:
        raise BundleError(f"{found} and revision {revision} are two.", "Give one of them.")
    options = {} if max_bytes is None else {"max_bytes": max_bytes}
    return hub_folder(HubName(found.repo_id, revision or found.revision), endpoint=endpoint, token=token, **options)


def bundle_folder(path_or_name: str | Path | None = None) -> Path:
    """The folder of a classifier's bundle.

    Args:
        path_or_name: See `named_bundle`; None: the one that ships.

    Raises:
        BundleError: None ships, or as `named_bundle`.
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
