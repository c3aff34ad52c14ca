"""A classifier's run: its labels, pictures and network, and the bundle, calibrated on the validation images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pesi.bundle.card import model_card
from pesi.bundle.config import BundleConfig, MemberConfig, NetworkConfig, PreprocessConfig, save_bundle, task_config
from pesi.datasets.labels import refuse_senseless
from pesi.datasets.splits import repeated_groups
from pesi.decide.calibration import calibrated_probabilities
from pesi.files import write_text
from pesi.images.regions import RegionName
from pesi.nn.cnn import PesiCNN
from pesi.nn.models import create_model
from pesi.predict.classifier import Classifier
from pesi.predict.fitting import NOVELTY_IMAGES, fit_decisions, network_outputs
from pesi.predict.regions import looking_at, regions_of
from pesi.taxonomy import Task
from pesi.train.classification_module import LesionModule, class_offsets, class_weights
from pesi.train.dataset import PictureRows, class_counts, class_indices, output_names
from pesi.train.folder import Pictures, Run
from pesi.train.loaders import read_masks, read_squares
from pesi.train.recipe import Picture, Recipe


@dataclass(frozen=True, eq=False)
class ClassifierRun(Run[Recipe]):
    """The training of one classifier.

    Attributes:
        task: The classes.
    """

    task: Task

    kind: ClassVar[str] = "classifier"
    best_by: ClassVar[str] = "val/rank"
    score: ClassVar[tuple[str, str]] = ("val/mean_auc", "mean AUC")

    def asked(self) -> dict[str, Any]:
        """What `run.json` keeps."""
        return super().asked() | {"task": asdict(self.task)}

    @cached_property
    def classes(self) -> dict[str, NDArray[np.int64]]:
        """The classes of each split's images."""
        return {split: class_indices(self.part(split), self.task) for split in ("train", "val")}

    def check(self) -> None:
        """Refuse missing labels, labels of another task, and those from which nothing can be learned."""
        _ = self.classes
        refuse_senseless(self.part("train"), self.task)

    def counts(self) -> str:
        """The images of each class."""
        return class_counts(self.classes["train"], self.classes["val"], self.task.class_names)

    def pictures(self, split: str, show: bool) -> Pictures:
        """The regions that are trained with and looked at, classes, and masks where the attention learns them.

        All images of the run are decoded together, so that all folds of a cross-validation share them.
        """
        records, picture, cache = self.part(split), self.recipe.picture, self.settings.cache_dir
        pool = self.records.sort_values("image_id", ignore_index=True)
        rows = pd.Index(pool["image_id"]).get_indexer(pd.Index(records["image_id"]))
        names = tuple(dict.fromkeys((*picture.regions, *self.recipe.looks_at)))
        regions = zip(names, regions_of(preprocess_config(picture, names)), strict=True)
        squares = {name: PictureRows(read_squares(pool, region, cache, show), rows) for name, region in regions}
        learned = split == "train" and self.recipe.loss.attention_mask
        masks = read_masks(records, picture, cache, show) if learned else None
        return Pictures(squares, self.classes[split], masks)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the network's outputs."""
        return output_names(self.task, self.recipe.loss.head)

    def network(self, start: Callable[[PesiCNN], None] = lambda network: None) -> PesiCNN:
        """The network, its weights random but for what `start` loads."""
        settings = self.recipe.network
        network = create_model(settings.name, num_classes=len(self.outputs), **settings.options())
        start(network)
        return network

    def module(self, start: Callable[[PesiCNN], None]) -> LesionModule:
        """How the network is trained, from where `start` puts it; the loss knows how frequent the classes are."""
        loss, count = self.recipe.loss, len(self.task.classes)
        return LesionModule(
            self.network(start),
            self.recipe,
            self.task,
            class_weights(self.classes["train"], count, loss.class_weight),
            steps_per_epoch=self.steps_per_epoch,
            offsets=class_offsets(self.classes["train"], count, loss.logit_adjustment),
        )

    def finish(self, training: Pictures, validation: Pictures) -> tuple[str, str]:
        """Write the bundle and `predictions/val.csv`."""
        recipe, records = self.recipe, self.part("val")
        network = self.network()
        self.load_trained(network)
        if recipe.weights == "float16":  # calibrated and scored as they will be stored
            network.half().float()
        member = MemberConfig(
            network=NetworkConfig(
                name=recipe.network.name, num_classes=len(self.outputs), options=recipe.network.options()
            ),
            preprocess=preprocess_config(recipe.picture, recipe.looks_at),
        )
        config = BundleConfig(
            name=recipe.name,
            members=(member,),
            task=task_config(self.task, recipe.loss.head),
            views=recipe.views,
            licence=recipe.licence,
            provenance=self.provenance(),
        )
        classifier = Classifier(config, network, device="cpu" if self.settings.accelerator == "cpu" else None)
        shown, known = ([part.squares[name] for name in recipe.looks_at] for part in (validation, training))
        outputs = network_outputs(classifier, lambda i: np.stack([region[i] for region in shown]), len(records))
        drawn = np.random.default_rng(recipe.seed).permutation(len(known[0]))[:NOVELTY_IMAGES]
        features = network_outputs(classifier, lambda i: known[0][drawn[i]][None], len(drawn)).features
        config, novelty = fit_decisions(
            config,
            outputs,
            validation.classes,
            list(records["image_id"]),
            on=f"the validation images of {Path(self.settings.data).name or 'the data'}",
            training_features=features,
            seed=recipe.seed,
            groups=repeated_groups(records),
        )
        probabilities = calibrated_probabilities(outputs.logits, recipe.loss.head, config.temperature, config.vector)
        predictions = pd.DataFrame(probabilities, columns=list(self.outputs))
        predictions.insert(0, "image_id", records["image_id"].to_numpy())
        write_text(self.folder / "predictions" / "val.csv", predictions.to_csv(index=False))
        config = save_bundle(
            self.folder / "bundle", config, [network], card=model_card(config), keep=recipe.weights, novelty=novelty
        )
        return config.bundle_id, f"temperature {config.temperature.value:.3f}"


def preprocess_config(picture: Picture, regions: Sequence[RegionName]) -> PreprocessConfig:
    """A recipe's picture as a bundle that looks at these regions keeps it.

    Raises:
        BundleError: A segmenter is needed and none ships.
    """
    return looking_at(PreprocessConfig(**picture.model_dump()), regions)
