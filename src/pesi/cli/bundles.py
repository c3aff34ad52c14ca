"""`pesi bundles`: which bundles are installed, what they tell, under which licence, and how good they are."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pesi.cli.status import EXIT_REFUSED

if TYPE_CHECKING:
    from pesi.bundle.installed import Installed, InstalledBundle


def bundles(
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects for programs, with every score.")] = False,
) -> None:
    """List the installed bundles, those of pesi-cnn and of other packages, by the names that --bundle takes.

    Exit status: 0, also where there is none; 1 where one cannot be opened or not be found by its name, or a package's
    cannot be listed: that is said, and the rest is listed.

    Examples:

        pesi bundles

        pesi bundles --json
    """
    from pesi.bundle.installed import installed_bundles

    installed = installed_bundles()
    listed = [_described(bundle, installed) for bundle in installed.bundles]
    print(json.dumps(listed, indent=2) if as_json else "\n\n".join(map(_text, listed)) or "No bundle is installed.")
    for problem in installed.problems:
        print(f"pesi: {problem}\n  -> Install that package again, or uninstall it.", file=sys.stderr)
    if installed.problems or any(one["problem"] for one in listed):
        raise typer.Exit(EXIT_REFUSED)


def _described(bundle: InstalledBundle, installed: Installed) -> dict[str, Any]:
    """What is told of a bundle; of one that cannot be opened, what its config says in words that every format has."""
    from pesi.bundle.files import forbids_commercial_use, stated_values
    from pesi.bundle.hub import card_licence
    from pesi.bundle.installed import DEFAULTS, OWN
    from pesi.errors import BundleError

    config = problem = None
    try:
        config = bundle.read()
        if installed.named(bundle.name) != bundle:
            raise BundleError("The name is that of one that comes with pesi-cnn.", "Give the folder.")
    except (BundleError, OSError) as error:
        problem = ("not found by its name: " if config else "cannot be opened: ") + str(error).replace("\n ", "")
    stated = stated_values(bundle.folder)
    licence = str(stated.get("licence") or card_licence(bundle.folder))
    return {
        "name": bundle.name,
        "bundle_id": config.bundle_id if config else None,
        "default": bundle.distribution == OWN and bundle.name in DEFAULTS,
        "kind": str(stated.get("kind", "unknown")),
        "format_version": stated.get("format_version"),
        "classes": list(config.outputs) if config else None,
        "licence": licence,
        "commercial_use_forbidden": forbids_commercial_use(licence),
        "measured": config.measured.model_dump(mode="json") if config and config.measured else None,
        "bytes": sum(path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file()),
        "distribution": bundle.distribution,
        "version": bundle.version,
        "folder": str(bundle.folder),
        "problem": problem,
    }


def _text(one: dict[str, Any]) -> str:
    """A bundle in a few lines, with the first of its scores."""
    scores = one["measured"]["scores"].items() if one["measured"] else ()
    told = {
        "kind": one["kind"] + ", the default" * one["default"],
        "tells": ", ".join(one["classes"] or ()),
        "licence": (one["licence"].rstrip(".") or "not stated")
        + "; no commercial use" * one["commercial_use_forbidden"],
        "measured": "nothing" * bool(one["classes"]),
        "size": f"{one['bytes'] / 1e6:.1f} MB",
        "from": f"{one['distribution']} {one['version']}, {one['folder']}",
        "problem": one["problem"],
    }
    for name, (value, low, high) in list(scores)[:1]:
        told["measured"] = (
            f"{name.replace('_', ' ')} {value:.3f} (95 % interval {low:.3f} to {high:.3f}), "
            f"{one['measured']['images']} images: {one['measured']['on']}"
        )
    return "\n".join([one["name"], *(f"  {key:<10}{text}" for key, text in told.items() if text)])
