"""One image in, one Prediction out; many in, a list that is also a frame, and a page of cards in a notebook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, overload

from pesi.errors import ImageError, SourceError
from pesi.images.pixels import ImageSource
from pesi.predict.notebook import cards_html
from pesi.predict.prediction import Prediction, Refusal
from pesi.predict.sources import many_sources, source_ids
from pesi.predict.tables import prediction_frame

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 24  # cards in a notebook: some 10 kB each


class Predictions(list[Prediction | Refusal]):
    """Predictions in the images' order, with a Refusal for each image that cannot be read.

    Example:
        >>> results = pesi.load().predict("photos/")  # doctest: +SKIP
        >>> results.to_frame().sort_values("malignant")  # doctest: +SKIP
    """

    @property
    def refusals(self) -> list[Refusal]:
        """The images that cannot be read."""
        return [result for result in self if isinstance(result, Refusal)]

    def to_frame(self) -> pd.DataFrame:
        """A row an image, with the columns that `pesi predict` writes (see `tables.prediction_frame`)."""
        return prediction_frame(self)

    def summary(self) -> str:
        """How many there are, and how many of them have no result or were refused."""
        refused = len(self.refusals)
        without = sum(isinstance(result, Prediction) and bool(result.no_result) for result in self)
        answered = len(self) - refused - without
        return f"{len(self)} images: {answered} answered, {without} without a result, {refused} refused"

    def __repr__(self) -> str:
        shown = [f"  {result!r}," for result in self[:_SHOWN]]
        left = [f"  ... {len(self) - _SHOWN} more"] if len(self) > _SHOWN else []
        return "\n".join([f"<Predictions of {self.summary()}", *shown, *left]) + ">"

    def _repr_html_(self) -> str:
        left = len(self) - _SHOWN
        total = self.summary() + (f"; the first {_SHOWN} of them" if left > 0 else "")
        return cards_html(((result.to_dict(), result.thumbnail) for result in self[:_SHOWN]), total)


class Predictor(ABC):
    """What predicts many images, and so one too."""

    @abstractmethod
    def predict_many(
        self,
        paths: Iterable[ImageSource],
        *,
        image_ids: Iterable[str] | None = None,
        views: str | None = None,
        gates: bool = True,
        batch_size: int = 16,
    ) -> Iterator[Prediction | Refusal]:
        """Predict many images, in order."""

    @overload
    def predict(  # type: ignore[overload-overlap]
        self,
        images: ImageSource,
        *,
        image_id: str | None = None,
        views: str | None = None,
        gates: bool = True,
        stream: Literal[False] = False,
        batch_size: int = 16,
    ) -> Prediction | Any: ...  # Any: where it names a folder, Predictions

    @overload
    def predict(
        self,
        images: Iterable[ImageSource],
        *,
        views: str | None = None,
        gates: bool = True,
        stream: Literal[False] = False,
        batch_size: int = 16,
    ) -> Predictions: ...

    @overload
    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        views: str | None = None,
        gates: bool = True,
        stream: Literal[True],
        batch_size: int = 16,
    ) -> Iterator[Prediction | Refusal]: ...

    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        image_id: str | None = None,
        views: str | None = None,
        gates: bool = True,
        stream: bool = False,
        batch_size: int = 16,
    ) -> Prediction | Predictions | Iterator[Prediction | Refusal]:
        """Predict one image, or many.

        Args:
            images: An image: a path, the bytes of a file, an opened file, a Pillow image, an array (H, W, 3) or a
                tensor (3, H, W), uint8 sRGB. Or many: a list or generator of these, or a folder, searched to any depth.
            image_id: One image's id; default the file's name without its ending, or "image". Of many, ids are made as
                `pesi predict` makes them.
            views: A key of `VIEWS`; default the bundle's.
            gates: Whether an image of poor quality, or no dermoscopy, gives no result.
            stream: Give the results one by one, so that not all are held. Where a generator is given, equal names are
                then told apart by number as they come.
            batch_size: Images (not views) at a time, of many.

        Returns:
            Of one image, its Prediction. Of many, a list in their order, with a Refusal for each that cannot be read;
            with `stream`, an iterator.

        Raises:
            ImageError: The one image is refused; the message says why.
            SourceError: Something given is no image (a TypeError).
            DataError: A folder holds no images.
        """
        sources = many_sources(images)
        if sources is None and not stream:
            ids = None if image_id is None else [image_id]
            result = next(self.predict_many([images], image_ids=ids, views=views, gates=gates))  # type: ignore[list-item]
            if isinstance(result, Refusal):
                raise ImageError(result.reason, result.cure)
            return result
        if image_id is not None:
            raise SourceError("One image_id was given for many images.", "Leave it out, or use predict_many.")
        many: Any = [images] if sources is None else sources
        results = self.predict_many(many, views=views, gates=gates, batch_size=batch_size)
        if stream:
            return results
        if not isinstance(many, Iterator):
            return Predictions(results)
        found = list(results)  # all names are known only now
        ids = source_ids([result.path for result in found])
        return Predictions(replace(result, image_id=name) for result, name in zip(found, ids, strict=True))


def probability_table(predictions: Iterable[Prediction]) -> pd.DataFrame:
    """Predictions as a frame: `image_id`, then one probability a class."""
    import pandas as pd

    return pd.DataFrame([{"image_id": p.image_id, **p.probabilities} for p in predictions])
