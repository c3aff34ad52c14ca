"""`pesi explain`: one image, drawn with what the network attended to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def explain(
    image: Annotated[Path, typer.Argument(help="A dermoscopy image.")],
    bundle: Annotated[
        str | None, typer.Option(help="The classifier: a bundle's folder. Default: the shipped one.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The PNG to write. Default: IMAGE-explained.png, here.")] = None,
    class_: Annotated[
        str | None, typer.Option("--class", help="The class to explain. Default: the most probable.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Lesion mask (PNG): adds the share of attention inside it.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: a GPU if there is one.")] = None,
) -> None:
    """Draw the class activation map, the attention of each stage, and both blended.

    Examples:

        pesi explain mole.jpg --bundle runs/mine/bundle

        pesi explain mole.jpg --bundle runs/mine/bundle --class melanoma --mask mole_segmentation.png --out why.png
    """
    from pesi.data.decode import image_size
    from pesi.explain.localisation import attention_inside, read_mask
    from pesi.explain.maps import explain as explain_image
    from pesi.explain.overlay import explanation_png
    from pesi.files import whole_file
    from pesi.predict.classifier import load

    classifier = load(bundle, device=device)
    explanation = explain_image(classifier, image, class_name=class_)
    target = out or Path(f"{image.stem}-explained.png")
    lesion, inside = None, None
    if mask is not None:
        preprocess = classifier.config.preprocess
        lesion = read_mask(mask, size=preprocess.size, geometry=preprocess.geometry, expected=image_size(image))
        maps = {"class activation": explanation.cam, **explanation.attention, "blended": explanation.blended}
        inside = {name: attention_inside(values, lesion) for name, values in maps.items()}
    png = explanation_png(explanation, title=image.name, mask=lesion, inside=inside)
    with whole_file(target) as temporary:
        temporary.write_bytes(png)
    print(f"{explanation.class_name}: probability {explanation.probability:.3f}")
    if lesion is not None and inside is not None:
        print(f"lesion: {lesion.mean():.1%} of the area")
        for name, share in inside.items():
            print(f"{name}: {share:.1%} inside the lesion")
    print(f"Picture: {target}")
