"""A segmenter's run: its masks, pictures and network, and the bundle."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pesi.bundle.card import model_card
from pesi.bundle.segmenter import SegmenterConfig, SegmenterNetworkConfig, SegmenterPreprocess, save_segmenter
from pesi.errors import ImageError
from pesi.images.decode import image_size
from pesi.images.masks import mask_of_another_size
from pesi.images.regions import WholeImage
from pesi.nn.cnn import PesiCNN
from pesi.nn.models import create_model
from pesi.nn.segmenter import PesiSegmenter
from pesi.train.folder import Pictures, Run
from pesi.train.loaders import read_masks, read_squares
from pesi.train.segmentation_module import SegmentationModule
from pesi.train.segmenter_recipe import SegmenterRecipe


@dataclass(frozen=True, eq=False)
class SegmenterRun(Run[SegmenterRecipe]):
    """The training of one lesion segmenter."""

    kind: ClassVar[str] = "segmenter"
    best_by: ClassVar[str] = "val/jaccard"
    score: ClassVar[tuple[str, str]] = ("val/jaccard", "Jaccard")

    def check(self) -> None:
        """Refuse, before the training, what its final scoring would."""
        scored = self.part("val")
        for path, mask_path in zip(scored["path"], scored["mask_path"], strict=True):
            with suppress(ImageError):  # what cannot be read is refused where it is decoded, all files together
                sizes = image_size(mask_path), image_size(path)
                if sizes[0] != sizes[1]:
                    raise mask_of_another_size(mask_path, *sizes)

    def counts(self) -> str:
        """All images have masks."""
        return f"lesion masks {len(self.part('train'))} + {len(self.part('val'))}"

    def pictures(self, split: str, show: bool) -> Pictures:
        """Whole images and their masks."""
        records, picture, cache = self.part(split), self.recipe.picture, self.settings.cache_dir
        squares = read_squares(records, WholeImage(picture.source_size, picture.geometry), cache, show)
        masks = read_masks(records, picture, cache, show)
        return Pictures({"image": squares}, np.zeros(len(records), np.int64), masks)

    def network(self, start: Callable[[PesiCNN], None] = lambda network: None) -> PesiSegmenter:
        """The network, its weights random but for what `start` loads into the encoder."""
        settings = self.recipe.network
        encoder = create_model(settings.name, num_classes=1, **settings.encoder_options())
        start(encoder)
        return PesiSegmenter(encoder, width=settings.width)

    def module(self, start: Callable[[PesiCNN], None]) -> SegmentationModule:
        """How the network is trained, from where `start` puts its encoder."""
        return SegmentationModule(self.network(start), self.recipe, steps_per_epoch=self.steps_per_epoch)

    def finish(self, training: Pictures, validation: Pictures) -> tuple[str, str]:
        """Write the bundle."""
        recipe = self.recipe
        network = self.network()
        self.load_trained(network)
        config = SegmenterConfig(
            name=recipe.name,
            network=SegmenterNetworkConfig(encoder=recipe.network.name, options=recipe.network.options()),
            preprocess=SegmenterPreprocess(**recipe.picture.model_dump()),
            threshold=recipe.threshold,
            licence=recipe.licence,
            provenance=self.provenance(),
        )
        config = save_segmenter(self.folder / "bundle", config, network, card=model_card(config))
        return config.bundle_id, "masks at the network's size"
