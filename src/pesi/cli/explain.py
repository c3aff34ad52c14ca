"""`pesi explain`: images, drawn with what the network attended to."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from pesi.cli.status import refused_status
from pesi.datasets.inputs import image_files, image_ids
from pesi.errors import DataError, ImageError, StorageError

if TYPE_CHECKING:
    from pesi.predict.classifier import Classifier
    from pesi.predict.prediction import Prediction


def explain(
    inputs: Annotated[list[Path], typer.Argument(help="Images, or folders of images (searched to any depth).")],
    bundle: Annotated[
        str | None,
        typer.Option(help="The classifier: a bundle's folder or name, or hf://OWNER/NAME. Default: the shipped one."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The PNG to write; of several images, the folder. Default: IMAGE-explained.png, here."),
    ] = None,
    class_: Annotated[
        str | None, typer.Option("--class", help="The class to explain. Default: the most probable.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Lesion mask (PNG) of one image: adds the share of attention inside it.")
    ] = None,
    gates: Annotated[bool, typer.Option(help="Say so where `pesi predict` gives no result, and why.")] = True,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: a GPU if there is one.")] = None,
) -> None:
    """Draw the class activation map, the attention of each stage, and both blended.

    An image of poor quality, or no dermoscopy, for which `pesi predict` gives no result, is drawn too: the
    picture says so. Of several images, those that cannot be read or drawn are named on stderr and the rest is done; the
    exit status is then 1.

    Examples:

        pesi explain mole.jpg --bundle runs/mine/bundle

        pesi explain mole.jpg --bundle runs/mine/bundle --class melanoma --mask mole_segmentation.png --out why.png

        pesi explain photos/ --out explained
    """
    from pesi.files import check_ending
    from pesi.predict.loading import load

    single = len(inputs) == 1 and not inputs[0].is_dir() and not (out and out.is_dir())
    if single:
        check_ending(out, ".png")
    if mask is not None and not single:
        raise typer.BadParameter("A mask is of one image: name that image alone.")
    if not single and out is not None and out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file.", "Name a folder for the pictures.")
    paths = image_files(inputs)
    classifier = load(bundle, device=device, runtime="eager")
    failed = 0
    for image_id, path in zip(image_ids(paths), paths, strict=True):
        target = out if single and out else (out or Path()) / f"{image_id}-explained.png"
        try:
            explained = draw_explanation(classifier, path, target, class_name=class_, mask=mask, gates=gates)
        except (ImageError, StorageError, OSError) as error:
            if single:
                raise
            failed += 1
            print(f"pesi: no picture of {path}: {error}", file=sys.stderr)
            continue
        _say(explained, "" if single else f"{image_id}: ")
    if not single:
        print(f"{len(paths) - failed} pictures in {out or Path()}", file=sys.stderr)
    if failed:
        raise typer.Exit(refused_status(failed, len(paths)))


def _say(explained: Explained, name: str) -> None:
    if explained.no_result:
        print(f"{name}no result: {explained.no_result}")
        print(f"{name}{explained.class_name}: the network alone says {explained.probability:.3f}")
    else:
        print(f"{name}{explained.class_name}: probability {explained.probability:.3f}")
    if explained.inside is not None:
        print(f"lesion: {explained.lesion_area:.1%} of the area")
        for panel, share in explained.inside.items():
            print(f"{panel}: {share:.1%} inside the lesion")
    if not name:
        print(f"Picture: {explained.picture}")


class Explained(NamedTuple):
    """What `draw_explanation` drew: the class, its probability, and, with a mask, each map's share inside it.

    `no_result` is why `pesi predict` gives none; "" where it does.
    """

    picture: Path
    class_name: str
    probability: float
    lesion_area: float | None
    inside: dict[str, float] | None
    no_result: str


def draw_explanation(
    classifier: Classifier,
    image: Path | bytes,
    target: Path,
    *,
    class_name: str | None = None,
    mask: Path | None = None,
    prediction: Prediction | None = None,
    gates: bool = True,
) -> Explained:
    """Write one image's explanation as a PNG: of each region that the classifier looks at, beneath each other.

    A mask is about the whole image, so the shares inside it are of that. Without a prediction one is made, with its
    gates or without.

    Raises:
        DataError: Unknown class; or a mask, and a classifier that does not look at the whole image first.
        ImageError: The image or the mask is refused.
    """
    import numpy as np

    from pesi.explain.localisation import attention_inside, check_whole_image, lesion_mask
    from pesi.explain.maps import explain as explain_image
    from pesi.explain.overlay import explanation_png, stacked_png
    from pesi.files import whole_file
    from pesi.images.decode import decode_image
    from pesi.images.regions import finds_lesion

    if mask is not None:
        check_whole_image(classifier)
    prediction = prediction or classifier.predict(image, gates=gates)
    name = class_name or prediction.most_probable
    regions = classifier.region_names
    explanations = [explain_image(classifier, image, class_name=name, region=i) for i in range(len(regions))]
    lesion, inside = None, None
    if mask is not None and isinstance(image, Path):
        whole = explanations[0]
        geometry = classifier.config.preprocess.geometry
        lesion = lesion_mask(mask, image, size=whole.image.shape[0], geometry=geometry)
        maps = {"class activation": whole.cam, **whole.attention, "blended": whole.blended}
        inside = {key: attention_inside(values, lesion) for key, values in maps.items()}
    probability = prediction.probabilities[name]
    squares, titles = classifier.squares(image), []
    for index, region in enumerate(regions):
        title = "The whole image" if region == "image" else "The lesion, found and cropped"
        if (
            region == "lesion"
            and "image" in regions
            and np.array_equal(squares[index], squares[regions.index("image")])
        ):
            found = finds_lesion(classifier.regions[index], decode_image(image))
            title = f"{'The lesion fills the picture' if found else 'No lesion was found'}: the whole image again"
        networks = len(classifier.looking_at(index))
        titles.append(title + f"; maps of {networks} networks, averaged" * (networks > 1))
    shown = image.name if isinstance(image, Path) else prediction.image_id
    said = f"{shown}: {name} {probability:.3f}, all views averaged"
    if prediction.no_result:
        said = "\n".join(wrap(f"{shown}: NO RESULT. {prediction.no_result}", 110))
    titles[0] = f"{said}\n{titles[0]}"
    pngs = [explanation_png(explanations[0], title=titles[0], mask=lesion, inside=inside)]
    pngs += [explanation_png(each, title=title) for each, title in zip(explanations[1:], titles[1:], strict=True)]
    with whole_file(target) as temporary:
        temporary.write_bytes(stacked_png(pngs))
    area = float(lesion.mean()) if lesion is not None else None
    return Explained(target, name, probability, area, inside, prediction.no_result)
