"""Progress bars for work that reports how much of it is done."""

from __future__ import annotations

from tqdm import tqdm


def move(bar: tqdm, done: int) -> None:
    """Set a bar to `done`."""
    bar.update(done - bar.n)
