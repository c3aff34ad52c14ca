"""`pesi bundles`: what is installed, said for people and for programs, also where something of it is broken."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pesi.bundle import installed
from pesi.bundle.installed import Installed, InstalledBundle, bundle_folder, installed_bundles
from pesi.cli.app import app


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["bundles", *arguments])
    assert result.exit_code == status, result.output
    return result


def varied(folder: Path, **values: object) -> InstalledBundle:
    """A bundle of another distribution: the shipped one's config with other values."""
    stated = json.loads((bundle_folder() / "config.json").read_text()) | values
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(stated))
    (folder / "model.safetensors").write_bytes(bytes(2_000_000))
    return InstalledBundle(folder.name, folder, "clinic-bundles", "1.2")


def free() -> tuple[InstalledBundle, ...]:
    """What comes with pesi-cnn itself, whatever else is installed here."""
    return tuple(bundle for bundle in installed_bundles().bundles if bundle.distribution == "pesi-cnn")


@pytest.fixture
def also(monkeypatch: pytest.MonkeyPatch):
    """Have these installed too."""

    def add(*bundles: InstalledBundle, problems: tuple[str, ...] = ()) -> None:
        found = Installed((*free(), *bundles), problems)
        monkeypatch.setattr(installed, "installed_bundles", lambda: found)

    return add


def test_the_shipped_ones(also) -> None:
    also()
    said = run().stdout
    for name in ("isic2017", "lesion-segmenter"):
        assert f"\n{name}\n" in f"\n{said}"
    listed = {one["name"]: one for one in json.loads(run("--json").stdout)}
    one, folder = listed["isic2017"], bundle_folder()
    stated = json.loads((folder / "config.json").read_text())
    assert one["classes"] == [name for name, _ in stated["task"]["classes"]]
    assert (one["licence"], one["measured"]) == (stated["licence"], stated["measured"])
    assert one["bytes"] == sum(len(path.read_bytes()) for path in folder.iterdir())
    assert (one["default"], one["commercial_use_forbidden"], one["problem"]) == (True, False, None)
    value, low, high = stated["measured"]["scores"]["mean AUC"]
    for text in (f"mean AUC {value:.3f} (95 % interval {low:.3f} to {high:.3f})", "150 images", "pesi-cnn 0."):
        assert text in said
    assert "commercial" not in said
    assert listed["lesion-segmenter"]["kind"] == "segmenter"


def test_of_another_distribution_and_not_free(also, tmp_path: Path) -> None:
    also(varied(tmp_path / "clinic", licence="CC BY-NC 4.0: learned from HAM10000.", measured=None))
    said = run().stdout.split("\n\n")[-1]
    for text in ("HAM10000; no commercial use", "measured  nothing", "clinic-bundles 1.2", str(tmp_path), "2.0 MB"):
        assert text in said
    assert "default" not in said
    assert json.loads(run("--json").stdout)[-1]["commercial_use_forbidden"] is True


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"format_version": 99}, "cannot be opened: .* bundle format version 99.* pip install -U pesi-cnn"),
        ({"kind": "oracle"}, r"cannot be opened: .* \(its kind: oracle\)"),
        ({"views": 3}, "cannot be opened: .*views"),
    ],
)
def test_what_cannot_be_opened_is_listed_with_the_reason(also, tmp_path: Path, values: dict, problem: str) -> None:
    """Licence, kind and format are told where any format would say them; the others are listed as ever."""
    also(varied(tmp_path / "newer", licence="CC BY-NC 4.0", **values))
    last = json.loads(run("--json", status=1).stdout)[-1]
    assert last["problem"] is not None
    assert (last["classes"], last["measured"], last["licence"]) == (None, None, "CC BY-NC 4.0")
    assert last["kind"] == values.get("kind", "classifier")
    shipped = json.loads((bundle_folder() / "config.json").read_text())
    assert last["format_version"] == values.get("format_version", shipped["format_version"])
    said = run(status=1).stdout
    (line,) = (line for line in said.splitlines() if "  problem  " in line)
    assert re.search(problem, line), line
    assert "mean AUC" in said


def test_one_of_several_networks(also, several_folder: Path) -> None:
    also(InstalledBundle("several", several_folder, "clinic-bundles", "1.2"))
    last = json.loads(run("--json").stdout)[-1]
    assert (last["name"], last["problem"], last["format_version"]) == ("several", None, 2)
    assert last["classes"] == ["melanoma", "seborrheic_keratosis", "nevus"]
    assert last["bytes"] == sum(len(path.read_bytes()) for path in several_folder.iterdir())
    assert f"{last['bytes'] / 1e6:.1f} MB" in run().stdout.split("\n\n")[-1]


def test_what_its_name_does_not_find(also, tmp_path: Path) -> None:
    ours, twins = varied(tmp_path / "isic2017"), [varied(tmp_path / "twin"), varied(tmp_path / "b")]
    twins[1] = InstalledBundle("twin", twins[1].folder, "more-bundles", "3")
    also(ours, *twins)
    first, _, *others = json.loads(run("--json", status=1).stdout)
    assert first["problem"] is None
    assert "that of one that comes with pesi-cnn" in others[0]["problem"]
    for other in others[1:]:
        assert "clinic-bundles 1.2" in other["problem"]
        assert "more-bundles 3" in other["problem"]
        assert other["classes"]


def test_a_broken_package_and_none_at_all(also, monkeypatch: pytest.MonkeyPatch) -> None:
    also(problems=("The bundles of X cannot be listed: it is broken.",))
    result = run("--json", status=1)
    assert "pesi: The bundles of X cannot be listed" in result.stderr
    assert len(json.loads(result.stdout)) == 2
    monkeypatch.setattr(installed, "installed_bundles", lambda: Installed((), ()))
    assert json.loads(run("--json").stdout) == []
    assert run().stdout == "No bundle is installed.\n"
