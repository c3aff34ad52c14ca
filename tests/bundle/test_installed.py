"""Bundles of other distributions are found by name, none of their code is run, and a broken one breaks nothing."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import pesi
from pesi.bundle import installed
from pesi.bundle.files import forbids_commercial_use, licence_name
from pesi.bundle.installed import bundle_folder, installed_bundles, named_bundle
from pesi.errors import BundleError


def publish(
    site: Path,
    distribution: str = "clinic-bundles",
    bundles: tuple[str, ...] = ("clinic",),
    *,
    points: str | None = None,
    folder: str = "",
) -> Path:
    """Lay out a distribution as pip does; its package cannot be imported. Gives the folder of its bundles."""
    package = distribution.replace("-", "_").replace(".", "_").lower()
    place = site / package / folder
    place.mkdir(parents=True)
    (site / package / "__init__.py").write_text("raise RuntimeError('it was imported')")
    for name in bundles:
        (place / name).mkdir()
        shutil.copy(bundle_folder() / "config.json", place / name)
    information = site / f"{package}-1.2.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    points = points or f"[pesi.bundles]\nmine = {'.'.join(filter(None, (package, folder)))}\n"
    (information / "entry_points.txt").write_text(points)
    return place


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where distributions are found, before all others."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def names(distribution: str) -> list[str]:
    return [bundle.name for bundle in installed_bundles().bundles if bundle.distribution == distribution]


@pytest.mark.parametrize("folder", ["", "bundles"])
def test_a_distributions_bundles_are_found_and_its_code_is_not_run(site: Path, folder: str) -> None:
    place = publish(site, bundles=("clinic", "other"), folder=folder)
    (place / "none").mkdir()  # has no config: is no bundle
    assert names("clinic-bundles") == ["clinic", "other"]
    assert named_bundle("other") == bundle_folder("other") == place / "other"
    assert installed_bundles().problems == ()
    assert "clinic_bundles" not in sys.modules
    (point,) = (one for one in entry_points(group="pesi.bundles") if one.dist and one.dist.name == "clinic-bundles")
    with pytest.raises(RuntimeError, match="it was imported"):  # what Python's own way would have done
        point.load()


def test_a_folder_goes_before_a_name(site: Path, tmp_path: Path) -> None:
    publish(site)
    (tmp_path / "clinic").mkdir()  # such as a data set's
    assert named_bundle("clinic").is_relative_to(site)
    shutil.copy(bundle_folder() / "config.json", tmp_path / "clinic")
    assert named_bundle("clinic") == Path("clinic")


def test_the_packages_own_names_go_before_all_others(site: Path) -> None:
    before = bundle_folder()
    publish(site, bundles=("isic2017", "aaa"))
    assert bundle_folder() == bundle_folder("isic2017") == before
    assert names("clinic-bundles") == ["aaa", "isic2017"]  # listed all the same
    assert names("pesi-cnn") == ["isic2017", "lesion-segmenter"]


def test_one_name_of_two_distributions_is_refused_and_both_are_told(site: Path) -> None:
    places = [publish(site, distribution) for distribution in ("clinic-bundles", "More.Bundles")]
    with pytest.raises(BundleError) as caught:
        named_bundle("clinic")
    for said in ("clinic-bundles 1.2", "More.Bundles 1.2", *(str(place / "clinic") for place in places)):
        assert said in caught.value.problem
    assert named_bundle(places[1] / "clinic") == places[1] / "clinic"
    assert bundle_folder().name == "isic2017"


def test_what_is_told_twice_is_there_once(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By two entry points of one folder; by a second, older copy of the distribution further down the path."""
    place = publish(site, points="[pesi.bundles]\nhere = clinic_bundles\nagain = clinic_bundles\n")
    publish(tmp_path / "older", "Clinic_Bundles")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "older")])
    assert named_bundle("clinic") == place / "clinic"
    assert len(names("clinic-bundles") + names("Clinic_Bundles")) == 1


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ("[pesi.bundles]\nmine = gone_package\n", "mine = gone_package names no folder"),
        ("[pesi.bundles]\nmine = broken_bundles.gone\n", "mine = broken_bundles.gone names no folder"),
        ("[pesi.bundles]\nmine = json.decoder\n", "mine = json.decoder names no folder"),
        ("[pesi.bundles]\nmine = ../../etc\n", "its metadata is damaged"),
        ("[pesi.bundles]\nmine\n", "its metadata is damaged"),
    ],
)
def test_a_broken_distribution_is_told_and_breaks_nothing(site: Path, points: str, said: str) -> None:
    publish(site)
    publish(site, "broken-bundles", points=points)
    found = installed_bundles()
    assert names("clinic-bundles") == ["clinic"]
    (problem,) = found.problems
    assert said in problem
    assert "broken_bundles-1.2.dist-info" in problem
    assert named_bundle("clinic").is_dir()
    with pytest.raises(BundleError, match="no bundle of this name is installed") as caught:
        named_bundle("brokn")
    assert problem in caught.value.problem


@pytest.mark.parametrize("written", [b"[pesi.bundles]\nmine = \xff\n", b"[console_scripts]\nonly words\n"])
def test_files_that_cannot_be_read(site: Path, written: bytes) -> None:
    publish(site, "broken-bundles")
    (site / "broken_bundles-1.2.dist-info" / "entry_points.txt").write_bytes(written)
    assert len(installed_bundles().problems) == (b"pesi" in written)
    (site / "broken_bundles-1.2.dist-info" / "entry_points.txt").write_text("[pesi.bundles]\nmine = broken_bundles\n")
    (site / "broken_bundles-1.2.dist-info" / "METADATA").write_text("")
    assert len(installed_bundles().problems) == 1
    assert bundle_folder().name == "isic2017"


def test_a_name_that_nothing_has(site: Path) -> None:
    publish(site)
    with pytest.raises(BundleError, match="no folder clinc, and no bundle of this name") as caught:
        pesi.load("clinc")
    assert "isic2017, lesion-segmenter, clinic" in caught.value.cure
    with pytest.raises(BundleError, match="is not a bundle: it has no config"):
        pesi.load("runs/clinc")  # a path


def test_the_default_is_named_and_not_the_first_in_the_alphabet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle_folder(), tmp_path / "bundles" / "isic2017")
    shutil.copytree(bundle_folder(), tmp_path / "bundles" / "aaa")
    monkeypatch.setattr(installed, "files", lambda package: tmp_path)
    assert bundle_folder() == tmp_path / "bundles" / "isic2017"
    assert names("pesi-cnn") == ["aaa", "isic2017"]
    shutil.rmtree(tmp_path / "bundles" / "isic2017")
    with pytest.raises(BundleError, match="ships no trained bundle"):
        bundle_folder()


def test_what_was_installed_is_read_with_its_own_kind() -> None:
    kinds = {}
    for bundle in installed_bundles().bundles[:2]:
        config = bundle.read()
        kinds[bundle.name] = (config.kind, config.outputs)
        assert config.kind == json.loads((bundle.folder / "config.json").read_text())["kind"]
    assert kinds["lesion-segmenter"] == ("segmenter", ("lesion",))
    assert kinds["isic2017"] == ("classifier", ("melanoma", "seborrheic_keratosis", "nevus"))


@pytest.mark.parametrize(
    ("licence", "name", "forbidden"),
    [
        ("CC BY-NC 4.0: learned from HAM10000.", "CC BY-NC 4.0", True),
        ("cc-by-nc-sa-4.0", "cc-by-nc-sa-4.0", True),
        ("https://creativecommons.org/licenses/by-nc/4.0/", "https://creativecommons.org/licenses/by-nc/4.0/", True),
        ("PolyForm Noncommercial 1.0.0", "PolyForm Noncommercial 1.0.0", True),
        ("For non-commercial use: ask us", "For non-commercial use", True),
        ("Apache-2.0: nothing in it has learned from HAM10000 (CC BY-NC 4.0)", "Apache-2.0", False),
        ("CC BY 4.0", "CC BY 4.0", False),
        ("NCSA", "NCSA", False),  # University of Illinois: a free one
        ("", "", False),
    ],
)
def test_licences_that_forbid_commercial_use(licence: str, name: str, forbidden: bool) -> None:
    assert licence_name(licence) == name
    assert forbids_commercial_use(licence) is forbidden
