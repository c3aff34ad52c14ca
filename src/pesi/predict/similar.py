"""Similar cases: the nearest of a user's own labelled images, by one classifier's features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as unpack
from safetensors.numpy import save as pack

from pesi.errors import BundleError, DataError, ImageError
from pesi.files import remove_file, whole_file, write_text
from pesi.images.pixels import ImageSource
from pesi.predict.classifier import Classifier
from pesi.predict.prediction import Refusal, Similar

if TYPE_CHECKING:
    import pandas as pd

REFERENCE, FEATURES = "reference.json", "features.safetensors"
FORMAT_VERSION = 1


class ReferenceCase(BaseModel):
    """One labelled image of a reference set.

    Attributes:
        image_id: Its id.
        diagnosis: Its known diagnosis, as the records have it.
        path: The file, as it was given.
        lesion_id: Its lesion, None where it is not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_id: str
    diagnosis: str
    path: str
    lesion_id: str | None = None


class ReferenceConfig(BaseModel):
    """The whole of `reference.json`.

    Attributes:
        bundle: Id of the bundle that the features are of.
        task: Its task.
        looks: Digest of what the bundle cuts from an image, and how.
        views: The views that were averaged.
        features_sha256: Of `features.safetensors`.
        cases: The images, in the features' order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str = "reference"
    format_version: int = FORMAT_VERSION
    bundle: str
    task: str
    looks: str
    views: str
    features_sha256: str
    cases: tuple[ReferenceCase, ...]


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """Labelled images that similar cases are looked for in.

    Attributes:
        config: What they are, and of which bundle.
        features: One row an image, of length 1, (N, C) float16.
    """

    config: ReferenceConfig
    features: NDArray[np.float16] = field(repr=False)

    def __len__(self) -> int:
        return len(self.config.cases)

    def nearest(
        self,
        features: NDArray[np.floating],
        k: int,
        *,
        without_image: str | None = None,
        without_lesion: str | None = None,
    ) -> list[Similar]:
        """The k most similar images, the most similar first; fewer where the set has no more.

        Args:
            features: Pooled features of one image by the same bundle (`Outputs.mean_features`), (C,).
            k: How many.
            without_image: Leave out the image of this id and all of its lesion, where that is known.
            without_lesion: Leave out every image of this lesion.

        Raises:
            DataError: The features are of another length than the set's, or all zero.
        """
        width = self.features.shape[1]
        norm = float(np.linalg.norm(np.asarray(features, np.float64)))
        if features.shape != (width,) or not np.isfinite(norm) or norm == 0:
            raise DataError(
                f"Features of shape {features.shape} and length {norm:g} do not fit a set of {width} columns.",
                "Take them from the bundle that the reference set was built with.",
            )
        cosine = self.features.astype(np.float32) @ (features / norm).astype(np.float32)
        lesions = {case.lesion_id for case in self.config.cases if case.image_id == without_image}
        lesions = (lesions | {without_lesion}) - {None}
        order = [
            int(index)
            for index in np.argsort(-cosine, kind="stable")
            if self.config.cases[index].image_id != without_image and self.config.cases[index].lesion_id not in lesions
        ]
        return [
            Similar(case.image_id, case.diagnosis, float(np.clip(cosine[index], -1, 1)), case.path)
            for index, case in ((index, self.config.cases[index]) for index in order[: max(k, 0)])
        ]

    def check_bundle(self, classifier: Classifier, views: str | None = None) -> None:
        """Make sure that the set was built with this classifier.

        Args:
            classifier: Whose features are looked up.
            views: Over which they are averaged; default the bundle's.

        Raises:
            BundleError: It was not: features of two networks have nothing in common; or with other views.
        """
        if self.config.views != (views or classifier.config.views):
            raise BundleError(
                f"The reference set was built with the views {self.config.views}, not "
                f"{views or classifier.config.views}.",
                f"Predict with --views {self.config.views}, or build it again.",
            )
        if self.config.bundle != classifier.config.bundle_id:
            raise BundleError(
                f"The reference set was built with the bundle {self.config.bundle}, not {classifier.config.bundle_id}.",
                "Build it again with this bundle (pesi similar build), or name the other one (--bundle).",
            )
        if self.config.looks != _looks(classifier):
            raise BundleError(
                f"The reference set was built with {self.config.bundle} looking at other parts of the image.",
                "Build it again with this bundle (pesi similar build), or name the other one (--bundle).",
            )

    def similar_to(
        self, classifier: Classifier, source: ImageSource, k: int, *, without_image: str | None = None
    ) -> list[Similar]:
        """The k images most similar to one: a file, its bytes, or its pixels; see `nearest`.

        Raises:
            BundleError: The classifier is not the one that the set was built with.
            ImageError: The image is refused.
        """
        self.check_bundle(classifier, self.config.views)
        features = classifier.outputs([classifier.squares(source)], self.config.views).mean_features[0]
        return self.nearest(features, k, without_image=without_image)


def _looks(classifier: Classifier) -> str:
    fed = "".join(member.preprocess.model_dump_json() for member in classifier.config.members)
    return hashlib.sha256(fed.encode()).hexdigest()[:16]


def unit_rows(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Features (N, C), each row divided by its length; a row of zeros stays."""
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-12), np.float32)


def build_reference(
    classifier: Classifier,
    records: pd.DataFrame,
    folder: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    refused: Callable[[Refusal], None] | None = None,
    batch_size: int = 16,
) -> ReferenceSet:
    """Compute the features of labelled images and keep them in a folder.

    Args:
        classifier: Whose features.
        records: Record table; rows without a diagnosis are left out.
        folder: Where `reference.json` and `features.safetensors` go, made if missing.
        progress: Called with (done, total).
        refused: Told of each image that cannot be read; the rest goes on. None: the first one is an error.
        batch_size: Images at a time.

    Raises:
        DataError: No labelled image is left.
        ImageError: An image cannot be read, and `refused` is None.
        StorageError: The system refused to write.
    """
    import pandas

    labelled = records[records["diagnosis"].notna()]
    cases: list[ReferenceCase] = []
    features: list[NDArray[np.float32]] = []
    rows = list(labelled[["image_id", "path", "diagnosis", "lesion_id"]].itertuples(index=False, name=None))
    for start in range(0, len(rows), batch_size):
        squares = []
        for image_id, path, diagnosis, lesion_id in rows[start : start + batch_size]:
            try:
                squares.append(classifier.squares(path))
            except ImageError as error:
                if refused is None:
                    raise
                refused(Refusal(str(image_id), str(path), error.problem, error.cure))
                continue
            lesion = None if lesion_id is None or pandas.isna(lesion_id) else str(lesion_id)
            cases.append(
                ReferenceCase(image_id=str(image_id), diagnosis=str(diagnosis), path=str(path), lesion_id=lesion)
            )
        if squares:
            features.append(classifier.outputs(squares).mean_features)
        if progress:
            progress(min(start + batch_size, len(rows)), len(rows))
    if not cases:
        raise DataError(
            "None of the images has a diagnosis." if not rows else "None of the labelled images can be read.",
            "A reference set needs labelled images: choose another split or data set.",
        )
    unit = unit_rows(np.concatenate(features)).astype(np.float16)
    data: bytes = pack({"features": unit})
    config = ReferenceConfig(
        bundle=classifier.config.bundle_id,
        task=classifier.config.task.name,
        looks=_looks(classifier),
        views=classifier.config.views,
        features_sha256=hashlib.sha256(data).hexdigest(),
        cases=tuple(cases),
    )
    folder = Path(folder)
    remove_file(folder / REFERENCE)  # written last, it makes the folder valid
    with whole_file(folder / FEATURES) as temporary:
        temporary.write_bytes(data)
    write_text(folder / REFERENCE, config.model_dump_json(indent=2) + "\n")
    return ReferenceSet(config, unit)


def load_reference(folder: str | Path) -> ReferenceSet:
    """Open a reference set.

    Raises:
        DataError: There is none, it is damaged, or of another version.
    """
    path = Path(folder) / REFERENCE
    again = "Build it again: pesi similar build DATA --out FOLDER"
    if not path.is_file():
        raise DataError(f"{folder} is no reference set: it has no {REFERENCE}.", again)
    try:
        config = ReferenceConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        mistake = error.errors()[0]
        place = ".".join(str(part) for part in mistake["loc"])
        raise DataError(f"{path}: {place + ': ' if place else ''}{mistake['msg']}.", again) from error
    if config.kind != "reference" or config.format_version != FORMAT_VERSION:
        raise DataError(f"{path} is a {config.kind} of format version {config.format_version}, not ours.", again)
    try:
        data = (Path(folder) / FEATURES).read_bytes()
    except OSError as error:
        raise DataError(f"{folder} has no readable {FEATURES}: {error.strerror}.", again) from error
    if hashlib.sha256(data).hexdigest() != config.features_sha256:
        raise DataError(f"{Path(folder) / FEATURES} is not the file that {REFERENCE} names.", again)
    try:
        features = np.asarray(unpack(data)["features"], np.float16)
    except (SafetensorError, KeyError) as error:
        raise DataError(f"{Path(folder) / FEATURES} cannot be opened: {error}", again) from error
    if features.ndim != 2 or len(features) != len(config.cases):
        raise DataError(f"{folder} has {len(config.cases)} images but features of shape {features.shape}.", again)
    return ReferenceSet(config, features)
