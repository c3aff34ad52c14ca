"""`pesi calibrate`: a bundle's calibration, thresholds, triage and refusals, set anew on a user's own images."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pesi.cli.divide import SkipMissingOption, SkipOtherDiagnosesOption, records_of_task

if TYPE_CHECKING:
    import pandas as pd

    from pesi.images.regions import RegionName
    from pesi.predict.classifier import Classifier
    from pesi.predict.members import Outputs


class Region(StrEnum):
    """What is cut from an image."""

    image = "image"
    lesion = "lesion"


class Method(StrEnum):
    """How probabilities are calibrated."""

    temperature = "temperature"
    vector = "vector"


def calibrate(
    data: Annotated[str, typer.Option(help="Labelled images that did not train the network.")],
    out: Annotated[Path, typer.Option(help="The folder of the new bundle; the old one stays as it is.")],
    bundle: Annotated[
        str | None, typer.Argument(help="A bundle's folder or name, or hf://OWNER/NAME. Default: the shipped one.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Which data set it is, where that cannot be found out.")] = None,
    split: Annotated[str, typer.Option(help="The images: train, val, test, or all.")] = "val",
    skip_missing: SkipMissingOption = False,
    skip_other_diagnoses: SkipOtherDiagnosesOption = False,
    method: Annotated[
        Method, typer.Option(help="temperature, or vector: a weight and a bias a class (some hundred images).")
    ] = Method.temperature,
    triage: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file with the triage levels wanted and what each promises. Default: excise, refer, follow up, "
            "no level reached."
        ),
    ] = None,
    known: Annotated[
        str | None,
        typer.Option(
            help="Split of --data with images that trained the network: what is new to it is learned from them. "
            "Default: the bundle's own statistics stay."
        ),
    ] = None,
    exclude: Annotated[
        Path | None, typer.Option(help="With --known: a text file of image ids that did not train it, one a line.")
    ] = None,
    region: Annotated[
        list[Region] | None,
        typer.Option(
            help="What the new bundle looks at in each image, averaging over it: image, lesion, or both by giving it "
            "twice. Default: what the old one does. What is new is told by the first; if that is another one than the "
            "old bundle's, --known is needed to tell it."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Where decoded images are kept.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: a GPU if there is one.")] = None,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Set a classifier's probabilities, thresholds, triage, prediction sets and refusals on your own images.

    The network stays as it is. A triage rule is a TOML file, a [[level]] each, the most urgent first: name, criterion
    (specificity, sensitivity, rest), value and confidence (0.9). A level of sensitivity 0.98 promises, with that
    confidence, that at most 2 % of the malignant lesions lie below it; the last level, the rest, promises nothing.

    Examples:

        pesi calibrate --data clinic.csv --split all --out our-bundle

        pesi calibrate runs/mine/bundle --data isic2017 --method vector --triage triage.toml --out recalibrated

        pesi calibrate runs/mine/bundle --data isic2017 --region image --region lesion --out both
    """
    import numpy as np

    from pesi.bundle.card import model_card
    from pesi.bundle.config import rewrite_bundle
    from pesi.bundle.installed import bundle_folder
    from pesi.cli.audit import unseen_by_network
    from pesi.cli.evaluate import chosen_records
    from pesi.datasets.splits import read_ids, repeated_groups
    from pesi.decide.triage import read_triage_rule
    from pesi.errors import PesiError
    from pesi.predict.fitting import NOVELTY_IMAGES, fit_decisions
    from pesi.predict.loading import load

    source = bundle_folder(bundle)
    not_trained = set() if exclude is None else read_ids(exclude)
    if out.exists() and out.resolve() == source.resolve():
        raise PesiError(f"{out} is the bundle that is calibrated.", "Choose another --out; replace it afterwards.")
    rule = read_triage_rule(triage) if triage is not None else None
    classifier = load(bundle, device=device, runtime="eager")
    if region:
        classifier = _looking_at(classifier, [each.value for each in dict.fromkeys(region)])
    show = progress and sys.stderr.isatty()
    records = chosen_records(data, dataset, split, skip_missing)
    records = records_of_task(records, classifier.task, skip_other_diagnoses)
    unseen_by_network(classifier, records, f"{Path(data).stem} {split}")
    classes = np.array([classifier.task.class_of(str(code)) for code in records["diagnosis"]], np.int64)
    outputs = _outputs(classifier, records, cache, show)
    training = None
    if known is not None:
        rows = chosen_records(data, dataset, known, skip_missing)
        rows = rows[~rows["image_id"].isin(not_trained)]
        rows = rows.sample(min(len(rows), NOVELTY_IMAGES), random_state=seed)
        training = _outputs(classifier, rows, cache, show, known=True).features
    config, novelty = fit_decisions(
        classifier.config,
        outputs,
        classes,
        list(records["image_id"]),
        on=f"the {split} images of {Path(data).stem}",
        calibration=method.value,
        rule=rule,
        training_features=training,
        novelty=classifier.novelty,
        seed=seed,
        groups=repeated_groups(records),
    )
    config = config.model_copy(update={"measured": None})  # what was measured with other thresholds
    config = rewrite_bundle(source, out, config, card=model_card(config), novelty=novelty)
    how = config.vector.how if config.vector is not None else config.temperature.how
    print(f"{method.value}: {how}")
    for level in config.triage:
        print(f"{level.level}: malignant probability >= {level.at_least:.3f}, {level.how}")
    print(f"novelty: {config.novelty.how if config.novelty else 'no statistics (see --known)'}")
    print(f"Bundle: {out}. What it is worth, on other images than these: pesi audit {out} --data DIR --out audit")


def _looking_at(classifier: Classifier, regions: list[RegionName]) -> Classifier:
    """The same network looking at other regions; with another one first, what it knew of novelty no longer holds."""
    from pesi.predict.classifier import Classifier
    from pesi.predict.regions import looking_at

    preprocess = looking_at(classifier.config.preprocess, regions)
    if preprocess == classifier.config.preprocess:
        return classifier
    first = regions[0] == classifier.config.preprocess.regions[0]
    novelty = classifier.novelty if first else None
    known = classifier.config.novelty if first else None
    config = classifier.config.with_preprocess(preprocess).model_copy(update={"novelty": known})
    return Classifier(config, classifier.networks, novelty, device=str(classifier.device))


def _outputs(
    classifier: Classifier, records: pd.DataFrame, cache: Path | None, show: bool, *, known: bool = False
) -> Outputs:
    """What the networks that have not seen them give for the records' images; of known ones all networks' features."""
    import numpy as np
    from tqdm import tqdm

    from pesi.cli.bars import move
    from pesi.datasets.cache import cached_squares
    from pesi.predict.fitting import network_outputs

    paths = list(records["path"])
    regions = 1 if known and len(classifier.members) == 1 else None  # the first is enough for its features
    squares = [
        cached_squares(paths, region, cache_dir=str(cache) if cache else None)
        for region in classifier.regions[:regions]
    ]
    with tqdm(total=len(paths), unit="image", desc="predicting", disable=not show, leave=False) as bar:
        return network_outputs(
            classifier,
            lambda i: np.stack([square[i] for square in squares]),
            len(paths),
            folds=None if known else classifier.folds_of(list(records["image_id"])),
            progress=lambda done, total: move(bar, done),
        )
