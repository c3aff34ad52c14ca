"""Explanations as pictures: the image, its class activation map, each stage's attention, both blended; with legends."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import PIL.Image
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pesi.explain.maps import Explanation, Map
from pesi.files import utf8
from pesi.images.transforms import Image


def explanation_png(
    explanation: Explanation,
    *,
    title: str = "",
    mask: NDArray[np.bool_] | None = None,
    inside: Mapping[str, float] | None = None,
) -> bytes:
    """Draw an explanation as one PNG.

    Args:
        explanation: What to draw.
        title: A line above everything.
        mask: Lesion mask (S, S), drawn as an outline.
        inside: Panel name ("class activation", "stage 1", .., "blended") -> share inside the lesion, written below it.
    """
    panels = 3 + len(explanation.attention)
    columns = min(panels, 4)
    rows = -(-panels // columns)
    figure = Figure(figsize=(3.3 * columns, 3.75 * rows + 0.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(panels)]
    _panel(axes[0], explanation.image, "image", mask)
    extreme = max(float(np.abs(explanation.cam).max()), 1e-9)
    _map_panel(
        axes[1], explanation.image, explanation.cam, "class activation", mask, inside,
        norm=TwoSlopeNorm(0, -extreme, extreme), cmap="RdBu_r", legend="adds to the logit: against (blue), for (red)",
    )  # fmt: skip
    uniform = 1 / explanation.cam.size
    for axis, (stage, attention) in zip(axes[2:], explanation.attention.items(), strict=False):
        _attention_panel(axis, explanation.image, attention / uniform, stage, mask, inside)
    blended = explanation.blended / uniform
    _attention_panel(axes[-1], explanation.image, blended, "blended", mask, inside, legend="evidence x attention")
    heading = f"{explanation.class_name}: probability {explanation.probability:.3f} by this view alone"
    figure.suptitle(utf8(f"{title}\n{heading}" if title else heading), fontsize=12, parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def stacked_png(pngs: Sequence[bytes]) -> bytes:
    """PNGs beneath each other as one, on white."""
    if len(pngs) == 1:
        return pngs[0]
    pictures = [PIL.Image.open(io.BytesIO(png)).convert("RGB") for png in pngs]
    whole = PIL.Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    buffer = io.BytesIO()
    whole.save(buffer, format="png")
    return buffer.getvalue()


def _panel(axis: Axes, image: Image, title: str, mask: NDArray[np.bool_] | None) -> None:
    axis.imshow(image)
    axis.set_title(title, fontsize=10)
    axis.set_xticks([])
    axis.set_yticks([])
    if mask is not None:
        # Two lines, so that the outline shows on dark and on light.
        axis.contour(mask, levels=[0.5], colors="black", linewidths=2.2)
        axis.contour(mask, levels=[0.5], colors="white", linewidths=1.0)


def _map_panel(
    axis: Axes,
    image: Image,
    values: Map,
    title: str,
    mask: NDArray[np.bool_] | None,
    inside: Mapping[str, float] | None,
    *,
    norm: Normalize,
    cmap: str,
    legend: str,
) -> None:
    _panel(axis, image, title, mask)
    mappable = ScalarMappable(norm=norm, cmap=colormaps[cmap])
    colours = mappable.to_rgba(values)
    # Where the map says nothing, the skin shows through.
    strength = np.abs(np.asarray(norm(values)) - np.asarray(norm(0.0 if cmap == "RdBu_r" else float(values.min()))))
    colours[..., 3] = 0.75 * np.clip(strength / max(float(strength.max()), 1e-9), 0, 1) ** 0.7
    axis.imshow(colours)
    bar = axis.figure.colorbar(mappable, ax=axis, orientation="horizontal", fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    if inside is not None and title in inside:
        legend += f"\n{inside[title]:.0%} inside the lesion"
    bar.set_label(legend, fontsize=8)


def _attention_panel(
    axis: Axes,
    image: Image,
    values: Map,
    title: str,
    mask: NDArray[np.bool_] | None,
    inside: Mapping[str, float] | None,
    legend: str = "attention, 1 = even",
) -> None:
    top = max(float(np.quantile(values, 0.995)), float(values.min()) + 1e-6)
    norm = Normalize(float(values.min()), top)
    _map_panel(axis, image, values, title, mask, inside, norm=norm, cmap="inferno", legend=legend)
