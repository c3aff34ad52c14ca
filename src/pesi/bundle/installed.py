"""Any bundle by its folder or name: those of the package, of other installed distributions, and on the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from pesi.bundle.config import BundleConfig
from pesi.bundle.files import CONFIG, bundle_kind
from pesi.bundle.hub import HubName, hub_folder, hub_name
from pesi.bundle.segmenter import SegmenterConfig
from pesi.errors import BundleError
from pesi.version import __version__

GROUP = "pesi.bundles"  # entry points of it name a package whose folder holds NAME/config.json, a folder a bundle
OWN = "pesi-cnn"
DEFAULTS = CLASSIFIER, SEGMENTER = "isic2017", "lesion-segmenter"  # what is taken where none is named
GATE = "dermoscopy-gate"  # what judges every picture: nothing to choose, so it is not listed


class InstalledBundle(NamedTuple):
    """A bundle that an installed distribution brings."""

    name: str
    folder: Path
    distribution: str
    version: str

    def read(self) -> BundleConfig | SegmenterConfig:
        """Its configuration; see `CommonConfig.read`."""
        return (SegmenterConfig if bundle_kind(self.folder) == "segmenter" else BundleConfig).read(self.folder)


class Installed(NamedTuple):
    """All bundles that are installed, those of pesi-cnn first; and what is wrong with distributions that bring some."""

    bundles: tuple[InstalledBundle, ...]
    problems: tuple[str, ...]

    def named(self, name: str) -> InstalledBundle | None:
        """The one that a name finds: pesi-cnn's own before any other's, so that no installation changes what it means.

        Raises:
            BundleError: Two other distributions bring one of this name.
        """
        found = [bundle for bundle in self.bundles if bundle.name == name]
        if len(found) > 1 and found[0].distribution != OWN:
            places = " and ".join(f"{one.distribution} {one.version} ({one.folder})" for one in found)
            raise BundleError(
                f"{len(found)} installed bundles have the name {name}: of {places}.",
                "Give the folder of the one that is meant, or uninstall the other.",
            )
        return found[0] if found else None


def installed_bundles() -> Installed:
    """What is installed, found by what distributions say of themselves: nothing of theirs is imported or run."""
    bundles = {one.folder: one for one in _in_folder(Path(str(files("pesi") / "bundles")), OWN, __version__)}
    problems, seen = [], {OWN}
    for distribution in distributions():
        try:
            # Looked for in the text: that of a distribution that brings none may be as broken as it likes.
            if f"[{GROUP}]" not in (distribution.read_text("entry_points.txt") or ""):
                continue
            name = distribution.metadata["Name"]
            key = re.sub(r"[-_.]+", "-", name.lower())
            if key in seen:  # the first on the path is the one that Python imports
                continue
            seen.add(key)
            for folder in _published_folders(distribution):
                for one in _in_folder(folder, name, distribution.version):
                    bundles.setdefault(one.folder, one)
        except Exception as error:  # whatever is wrong with it, the others are there
            place = getattr(distribution, "_path", "one without a folder")
            reason = error if isinstance(error, ModuleNotFoundError) else f"its metadata is damaged ({error!r})"
            problems.append(f"The bundles of an installed distribution ({place}) cannot be listed: {reason}.")
    return Installed(tuple(bundles.values()), tuple(problems))


def _published_folders(distribution: Distribution) -> Iterator[Path]:
    """The folders that a distribution's entry points name.

    Raises:
        ModuleNotFoundError: One names what is not there.
    """
    for point in distribution.entry_points.select(group=GROUP):
        package, *inner = point.module.split(".")
        spec = find_spec(package)  # of a name without dots: imports nothing
        folders = [Path(place, *inner) for place in (spec.submodule_search_locations if spec else None) or ()]
        folders = [folder for folder in folders if folder.is_dir()]
        if not folders:
            raise ModuleNotFoundError(f"its entry point {point.name} = {point.value} names no folder that is there")
        yield from folders


def _in_folder(folder: Path, distribution: str, version: str) -> Iterator[InstalledBundle]:
    for path in sorted(folder.glob(f"*/{CONFIG}")):
        if path.parent.name != GATE:
            yield InstalledBundle(path.parent.name, path.parent, distribution, version)


def shipped_bundle(name: str) -> Path | None:
    """The folder of a bundle that comes with the package itself; None where there is none of this name."""
    folder = Path(str(files("pesi") / "bundles" / name))
    return folder if (folder / CONFIG).is_file() else None


def named_bundle(path_or_name: str | Path) -> Path:
    """The folder of a bundle of any kind.

    Args:
        path_or_name: Its folder; or, where that is no bundle's, the name of one that is installed, with this package or
            with another (`installed_bundles`); or `hf://OWNER/NAME[@REVISION]`, which is fetched from the hub.

    Raises:
        BundleError: There is none of this name, or two; or the hub has no such bundle, or cannot be reached.
    """
    name = hub_name(path_or_name)
    if name is not None:
        return hub_folder(name)
    folder = Path(path_or_name)
    if (folder / CONFIG).is_file() or folder.name != str(path_or_name):
        return folder
    installed = installed_bundles()
    found = installed.named(folder.name)
    if found is None and not folder.exists():
        known = ", ".join(dict.fromkeys(bundle.name for bundle in installed.bundles)) or "none"
        raise BundleError(
            " ".join((f"There is no folder {folder}, and no bundle of this name is installed.", *installed.problems)),
            f"Give a bundle's folder (RUN/bundle), hf://OWNER/NAME, or one that `pesi bundles` lists: {known}.",
        )
    return found.folder if found else folder


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
        path_or_name: See `named_bundle`; None: the one that ships, `isic2017`.

    Raises:
        BundleError: None ships, or as `named_bundle`.
    """
    if path_or_name is not None:
        return named_bundle(path_or_name)
    shipped = shipped_bundle(CLASSIFIER)
    if shipped is None:
        raise BundleError(
            "This version of pesi-cnn ships no trained bundle.",
            "Name one (--bundle RUN/bundle), or train it: pesi train pesi50 --data DIR, or pesi demo.",
        )
    return shipped
