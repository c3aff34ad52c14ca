"""A lesion's description as a picture: its outline, axes and eighths on the image; its colours."""

from __future__ import annotations

import io
import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pesi.explain.asymmetry import centre_of, principal_angle
from pesi.explain.border import ABRUPT_ABOVE, EIGHTHS, Points, feret_diameter, outline
from pesi.explain.colours import REFERENCES, colour_map, srgb
from pesi.explain.description import LesionDescription
from pesi.explain.lesion_patch import lesion_patch
from pesi.files import utf8
from pesi.images.masks import Mask
from pesi.images.transforms import Image

_AXES = ("#56B4E9", "#E69F00")
_ABRUPT, _GRADUAL, _HIDDEN = "#D55E00", "#FFFFFF", "#999999"
_SKIN = "as the skin around"
_SEEN = 1024  # longest side of the picture that is drawn: more would not show


def description_png(image: Image, mask: Mask, description: LesionDescription, *, title: str = "") -> bytes:
    """Draw a description as one PNG; where no lesion was found, the image with the reason.

    Args:
        image: uint8 sRGB, (H, W, 3).
        mask: The lesion, (H, W); anything where `description.found` is false.
        description: What was measured of it.
        title: A line above.
    """
    found = description.asymmetry is not None and description.border is not None and description.colours is not None
    figure = Figure(figsize=(11.5 if found else 5.5, 5.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.add_subplot(1, 2 if found else 1, 1)
    if title:
        figure.suptitle(utf8(title), fontsize=12, parse_math=False)
    step = max(1, math.ceil(max(image.shape[:2]) / _SEEN))
    height, width = image.shape[:2]
    left.imshow(image[::step, ::step], extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    left.set_axis_off()
    if found:
        _draw_shape(left, image, mask, description)
        _draw_colours(figure.add_subplot(1, 2, 2), image, mask, description)
    else:
        left.set_title(f"No lesion to describe:\n{description.reason}", fontsize=9, wrap=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_shape(axes: Axes, image: Image, mask: Mask, description: LesionDescription) -> None:
    """The outline, each eighth in the colour of its verdict; the two axes of least asymmetry; the diameter."""
    assert description.asymmetry is not None
    assert description.border is not None
    patch = lesion_patch(image, mask)
    line = outline(patch.mask)
    x, y = centre_of(patch.mask)
    turned = np.degrees(np.arctan2(line[:, 1] - y, line[:, 0] - x)) - principal_angle(patch.mask)
    eighth = ((turned % 360) // (360 / EIGHTHS)).astype(int)
    drawn = patch.to_image(line)
    for index, value in enumerate(description.border.steps):
        colour = _HIDDEN if value is None else _ABRUPT if value > ABRUPT_ABOVE else _GRADUAL
        part = np.where((eighth == index)[:, None], drawn, np.nan)
        axes.plot(part[:, 0], part[:, 1], color="black", linewidth=3.6)
        axes.plot(part[:, 0], part[:, 1], color=colour, linewidth=2.0)
    centre = patch.to_image(np.array([[x, y]]))[0]
    reach = 1.15 * float(np.linalg.norm(drawn - centre, axis=1).max())
    for axis, colour in zip(description.asymmetry.least, _AXES, strict=True):
        way = reach * np.array([math.cos(math.radians(axis.angle)), math.sin(math.radians(axis.angle))])
        ends = np.stack([centre - way, centre + way])
        label = f"axis: {axis.shape:.0%} of shape, Delta E {axis.colour:.1f}" + (" *" if axis.asymmetric else "")
        axes.plot(ends[:, 0], ends[:, 1], "--", color=colour, linewidth=1.6, label=label)
    _draw_diameter(axes, feret_diameter(mask)[1], description)
    axes.plot([], [], color=_ABRUPT, linewidth=2, label="border: abrupt")
    axes.plot([], [], color="#BBBBBB", linewidth=2, label="border: gradual (white), unseen (grey)")
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)
    axes.set_title(
        f"A {description.asymmetry.score} of 2 (* asymmetric), B {description.border.score} of 8", fontsize=10
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), fontsize=8, frameon=False, ncols=2)


def _draw_diameter(axes: Axes, ends: Points, description: LesionDescription) -> None:
    text = f"diameter {description.diameter_px:.0f} px"
    if description.diameter_mm is not None:
        text = f"diameter {description.diameter_mm:.1f} mm"
    axes.plot(ends[:, 0], ends[:, 1], ":", color="#009E73", linewidth=1.6, label=text)


def _draw_colours(axes: Axes, image: Image, mask: Mask, description: LesionDescription) -> None:
    """The lesion painted in the reference colours, and their shares."""
    assert description.colours is not None
    colours = description.colours
    patch = lesion_patch(image, mask)
    paints = dict(REFERENCES) if colours.skin is None else {**REFERENCES, _SKIN: srgb(colours.skin)}
    painted = np.array(list(paints.values()), np.uint8)[colour_map(patch, colours.skin)]
    height, width = patch.mask.shape
    canvas = np.full((height, width, 3), 255, np.uint8)
    canvas[patch.mask] = painted[patch.mask]
    axes.imshow(canvas, interpolation="nearest")
    line = outline(patch.mask)
    axes.plot(line[:, 0], line[:, 1], color="black", linewidth=0.8)
    axes.set_axis_off()
    axes.set_title(f"C {colours.score} of 6 (* present)", fontsize=10)
    handles = [
        Patch(
            facecolor="#{:02x}{:02x}{:02x}".format(*paints[name]),
            edgecolor="black",
            label=f"{name} {share:.0%}" + (" *" if name in colours.present else ""),
        )
        for name, share in {**colours.shares, _SKIN: colours.skin_like}.items()
        if name in paints
    ]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), fontsize=8, frameon=False, ncols=3)
