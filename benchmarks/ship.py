"""Makes the bundles that ship, from the networks of a table's rows: decided, measured, audited and carded in one go.

    python benchmarks/ship.py keep isic2017 --work runs/benchmarks
    python benchmarks/ship.py make isic2017 --data DIR [--sharper DIR] [--audit [--also DIR ...]]

`keep` copies the networks of finished rows (`run.py --keep-bundles`, or `gpu/transfer.py unpack`) into
`models/NAME/ROW`: what a later step needs, small enough for the repository. `make` takes those that are there, and else
the networks of the bundle as it is: a change of format, or of how is decided, trains nothing, and a region's networks
may come later. What is made of which rows stands in `ship.toml`. The images that the networks have not seen decide
everything (`pesi.train.folds`), and are what the card tells. With `--audit` the whole audit goes into the card too.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
from pool import duplicate_pairs, pool_of
from pydantic import BaseModel, ConfigDict
from table import Row, Table, chosen, load_table

from pesi.bundle.card import keep_measured
from pesi.bundle.config import Bundle, BundleConfig, load_bundle, read_config
from pesi.bundle.files import CONFIG
from pesi.datasets.duplicates import clusters
from pesi.datasets.readers import read_dataset
from pesi.datasets.splits import group_ids
from pesi.errors import PesiError
from pesi.evaluate.crossfit import FoldsEvaluation, evaluate_folds
from pesi.files import write_json, write_text
from pesi.images.transforms import Geometry
from pesi.predict.loading import load
from pesi.predict.tables import ISIC2017_COLUMNS
from pesi.taxonomy import task_of
from pesi.train.folder import RunSettings
from pesi.train.folds import FoldsRun, out_of_fold_table, write_folds_bundle

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


class Shipped(BaseModel):
    """An entry of `ship.toml`.

    Attributes:
        table: The table whose rows are taken, and `rows` which (patterns).
        views: What the bundle averages; fewer than the rows had, where many networks vary the picture already.
        geometry: How a picture that is no square is brought to one.
        bundle: Where it goes.
        name, licence: The bundle's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: Path
    rows: tuple[str, ...]
    views: str
    geometry: Geometry
    bundle: Path
    name: str
    licence: str


def entry(name: str) -> Shipped:
    """The entry of that name.

    Raises:
        PesiError: There is none.
    """
    entries = tomllib.loads((HERE / "ship.toml").read_text(encoding="utf-8"))
    if name not in entries:
        raise PesiError(f"ship.toml has no {name}.", f"It has: {', '.join(entries)}.")
    return Shipped.model_validate(entries[name])


def keep(name: str, work: Path) -> list[str]:
    """Copy the networks of finished rows into `models/NAME`.

    Args:
        name: The entry's.
        work: As `run.py --work`.

    Returns:
        The rows that were copied.
    """
    shipped = entry(name)
    table = load_table(ROOT / shipped.table)
    copied = []
    for row in chosen(table.rows(), shipped.rows):
        source, target = work / table.name / row.name / "bundle", ROOT / "models" / name / row.name
        if not (source / "model.safetensors").is_file() or (target / CONFIG).is_file():
            continue
        target.mkdir(parents=True, exist_ok=True)
        config = read_config(source)
        if config.preprocess.regions[0] != "image":  # tells nothing of novelty
            config = config.model_copy(update={"novelty": None})
        for file in ("model.safetensors", *(["novelty.safetensors"] if config.novelty is not None else [])):
            shutil.copyfile(source / file, target / file)
        write_text(target / CONFIG, config.model_dump_json(indent=2) + "\n")  # last: then it is whole
        copied.append(row.name)
    return copied


def trained(shipped: Shipped, name: str, table: Table) -> list[tuple[int, Bundle]]:
    """Fold and bundle of each network: of those that are kept, else of the bundle as it is.

    Raises:
        PesiError: No variant has all of its rows.
    """
    rows, kept = chosen(table.rows(), shipped.rows), ROOT / "models" / name
    bundle = load_bundle(ROOT / shipped.bundle) if (ROOT / shipped.bundle / CONFIG).is_file() else None
    found = {}
    for row in rows:
        if (kept / row.name / CONFIG).is_file():
            found[row.name] = load_bundle(kept / row.name)
            continue
        fold, region = _fold(row), table.recipe(row).regions[0]
        inside = [
            index
            for index, member in enumerate(bundle.config.members if bundle else ())
            if (member.fold, member.preprocess.regions[0]) == (fold, region)
        ]
        alike = [other for other in rows if _fold(other) == fold and table.recipe(other).regions[0] == region]
        if bundle is not None and len(inside) == len(alike):  # in the order of the rows, as they were written
            index = inside[alike.index(row)]
            found[row.name] = Bundle(_alone(bundle, index), (bundle.networks[index],), (bundle.novelty[index],))
    missing = [row for row in rows if row.name not in found]
    whole = {row.variant for row in rows} - {row.variant for row in missing}
    names = ", ".join(row.name for row in missing)
    if not whole:
        raise PesiError(
            f"Neither {kept} nor {shipped.bundle} has {names}.", "Train them: python benchmarks/run.py; then keep them."
        )
    if missing:
        print(f"Without {', '.join(sorted({row.variant for row in missing}))}: {names} are missing.", file=sys.stderr)
    return [(_fold(row), found[row.name]) for row in rows if row.variant in whole]


def _fold(row: Row) -> int:
    return int(row.split.removeprefix("fold"))


def _alone(bundle: Bundle, index: int) -> BundleConfig:
    member = bundle.config.members[index].model_copy(update={"fold": None})
    return bundle.config.model_copy(update={"members": (member,), "folds": ()})


def folds_run(shipped: Shipped, table: Table, data: Path, cache: Path | None) -> FoldsRun:
    """The images and folds of a table as a cross-validation has them."""
    records = read_dataset(data)
    listed = pd.read_csv(table.folds_path, dtype={"image_id": str, "duplicate_of": str}, keep_default_na=False)
    pool = pool_of(records)
    pool = pool[pool["image_id"].isin(listed["image_id"])].reset_index(drop=True)
    pairs_path = table.folds_path.with_name(f"{table.folds_path.stem}-pairs.csv")
    pairs = pd.read_csv(pairs_path) if pairs_path.is_file() else duplicate_pairs(records, data, find=False)
    group = group_ids(pool, clusters(records, pairs))
    own = listed.set_index("image_id").loc[pool["image_id"]].reset_index()
    folds = own[["image_id", "fold"]].assign(group=group.to_numpy(), apart=(own["duplicate_of"] != "").astype(int))
    recipe = table.recipe(chosen(table.rows(), shipped.rows)[0])
    recipe = recipe.model_copy(update={"name": shipped.name, "licence": shipped.licence, "views": shipped.views})
    task = task_of(recipe.task, pool["diagnosis"])
    settings = RunSettings(data=data.name, accelerator="cpu", cache_dir=str(cache) if cache else None)
    return FoldsRun(ROOT, recipe, pool, folds, settings, task, 1)


def make(name: str, data: Path, cache: Path | None) -> FoldsEvaluation:
    """Write the bundle, its out-of-fold scores in it, and `benchmarks/shipped/NAME.json`."""
    shipped = entry(name)
    table = load_table(ROOT / shipped.table)
    run = folds_run(shipped, table, data, cache)
    fed = []
    for fold, bundle in trained(shipped, name, table):
        preprocess = bundle.config.preprocess.model_copy(update={"geometry": shipped.geometry})
        fed.append((fold, bundle._replace(config=bundle.config.with_preprocess(preprocess))))
    folder = ROOT / shipped.bundle
    made = folder.with_name(f".{folder.name}-made")  # whole or not at all
    shutil.rmtree(made, ignore_errors=True)
    config, crossed = write_folds_bundle(fed, run, made, show=sys.stderr.isatty())
    table_of_answers = out_of_fold_table(run, config, crossed)
    found = evaluate_folds(table_of_answers, run.records, run.folds["group"], config)
    keep_measured(made, found.measured)
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)
    write_json(HERE / "shipped" / f"{name}.json", {"bundle": config.bundle_id} | found.to_dict())
    answers = table_of_answers.drop(columns=["diagnosis"]).to_csv(index=False, float_format="%.5g")
    write_text(HERE / "shipped" / f"{name}-out-of-fold.csv", answers)
    return found


def predict_test(name: str, data: Path, sharper: Path | None) -> Path | None:
    """Write the predictions of the official test images, each in the best copy that there is; None: there are none."""
    shipped, records = entry(name), read_dataset(data)
    test = records[records["split"] == "test"]
    if not len(test) or shipped.name == "ham10000":
        return None
    paths = [
        sharp if sharper is not None and (sharp := sharper / "images" / "test" / Path(path).name).is_file() else path
        for path in test["path"]
    ]
    classifier = load(ROOT / shipped.bundle, device="cpu", runtime="eager")
    rows = []
    for result in classifier.predict_many(paths, image_ids=list(test["image_id"]), gates=False):
        values = result.probabilities  # type: ignore[union-attr]  # an image that cannot be read is an error here
        rows.append({"image_id": result.image_id} | {column: values[column] for column in ISIC2017_COLUMNS})
    path = HERE / "isic2017" / "predictions" / f"bundle-{name}.csv"
    write_text(path, pd.DataFrame(rows).to_csv(index=False, float_format="%.5g"))
    return path


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["keep", "make"])
    parser.add_argument("name", help="An entry of ship.toml.")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "benchmarks", help="Run folders of the tables.")
    parser.add_argument("--data", type=Path, help="The data set that the rows were trained on.")
    parser.add_argument("--sharper", type=Path, help="Its sharper copies, for the test images.")
    parser.add_argument("--cache", type=Path, help="Where decoded images are kept.")
    parser.add_argument("--audit", action="store_true", help="Audit the bundle too, and keep that in it.")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="Other data sets to audit on.")
    options = parser.parse_args()
    try:
        if options.what == "keep":
            copied = keep(options.name, options.work)
            print(f"Kept: {', '.join(copied) or 'nothing new'}")
            return
        if options.data is None:
            raise PesiError("make needs the images.", "Name them: --data DIR.")
        found = make(options.name, options.data, options.cache)
        print(found.decided_text())
        for score, (value, low, high) in found.measured.scores.items():
            print(f"{score}: {value:.3f} ({low:.3f} to {high:.3f})")
        print(f"Test predictions: {predict_test(options.name, options.data, options.sharper) or 'none'}")
        if options.audit:
            bundle = str(ROOT / entry(options.name).bundle)
            command = [sys.executable, "-m", "pesi", "audit", bundle, "--data", str(options.data), "--split", "all"]
            command += ["--keep", "--out", str(ROOT / "runs" / f"audit-{options.name}")]
            for other in options.also:
                command += ["--also", str(other)]
            subprocess.run(command, check=True)
    except PesiError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
