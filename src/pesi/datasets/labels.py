"""What diagnoses a record table has: those of a task, and labels that make no sense."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable

import pandas as pd

from pesi.datasets.diagnosis_names import NAMES, plain
from pesi.datasets.records import listed
from pesi.errors import DataError
from pesi.taxonomy import DIAGNOSES, Task

_NEAR = 0.85  # of difflib: "melonoma" and "melanoma" have 0.875, "lentigo" and "solar lentigo" 0.7


def of_task(records: pd.DataFrame, task: Task, *, skip: bool, say: Callable[[str], None]) -> pd.DataFrame:
    """The records without those of a diagnosis that no class of the task takes; a missing one stays.

    Args:
        records: A record table.
        task: The classes.
        skip: Leave such images out; else they are an error.
        say: Told what was left out.

    Raises:
        DataError: There are such images (counted, the first ten named), or nothing is left.
    """
    unknown = int((records["diagnosis"] == "MALIGNANT").sum())
    if unknown and task.has("MALIGNANT"):
        counted = task.class_names[task.class_of("MALIGNANT")]
        say(f"{unknown} image(s) are MALIGNANT, of no known kind; the task {task.name!r} counts them as {counted!r}.")
    other = records["diagnosis"].notna() & ~records["diagnosis"].map(task.has).astype(bool)
    if not other.any():
        return records
    found = records[other]
    counts = ", ".join(f"{name} ({count})" for name, count in Counter(found["diagnosis"]).most_common())
    classes = f"{task.name!r} ({', '.join(task.class_names)})"
    told = f"{len(found)} image(s) have a diagnosis of no class of the task {classes}"
    named = listed([f"{i}: {d}" for i, d in zip(found["image_id"], found["diagnosis"], strict=True)])
    near = "".join(f" {text}." for text in near_names(found["diagnosis"]))
    if not skip or other.all():
        cure = "Leave them out with --skip-other-diagnoses" if not other.all() else "Name other data"
        raise DataError(f"{told}: {counts}.{near}{named}", f"{cure}, or choose another task.")
    say(f"{told}, and were left out: {counts}.{near}{named}")
    return records[~other].reset_index(drop=True)


def near_names(diagnoses: Iterable[str]) -> list[str]:
    """For each name that is no known one but written nearly like one of them, or like another of these: a sentence."""
    words = sorted({str(word) for word in diagnoses})
    own = [word for word in words if word not in DIAGNOSES]
    told = []
    for word in own:
        name = plain(word)
        others = [plain(other) for other in own if other != word]
        # A digit more or less is no slip of the pen: "grade 1" and "grade 2".
        near = [other for other in (*others, *NAMES) if other == name or _letters(other) != _letters(name)]
        near = difflib.get_close_matches(name, near, n=1, cutoff=_NEAR)
        if near:
            told.append(f"the diagnosis {word!r} is written nearly as {near[0]!r}")
    return told


def refuse_senseless(records: pd.DataFrame, task: Task) -> None:
    """Refuse to learn a task from labels that make no sense.

    Args:
        records: Record table of images that are learned from, with diagnoses of the task or none.
        task: The classes.

    Raises:
        DataError: No image has a diagnosis, all are of one class, no class has two images, or a name is nearly that of
            another.
    """
    counts = Counter(task.class_of(str(diagnosis)) for diagnosis in records["diagnosis"].dropna())
    told = near_names(records["diagnosis"].dropna())
    if len(counts) == 1:
        (index,) = counts
        told.append(f"all {counts[index]} images with a diagnosis are of the class {task.class_names[index]!r}")
    elif max(counts.values(), default=0) < 2:
        told = senseless_labels(records)
    if told:
        told[0] = told[0][0].upper() + told[0][1:]
        cure = "Correct the labels (pesi data check tells all that is wrong with them), or name other data."
        raise DataError(f"{'; '.join(told)}.", cure)


def senseless_labels(records: pd.DataFrame) -> list[str]:
    """Why a classifier cannot learn from the diagnoses of these records, a sentence each; [] where it can.

    None at all, one class only, classes of one image, and names that are nearly those of others.
    """
    counts = Counter(str(diagnosis) for diagnosis in records["diagnosis"].dropna())
    if not counts:
        return [f"0 of {len(records)} images have a diagnosis"]
    told = []
    if len(counts) == 1:
        name, number = counts.most_common()[0]
        told.append(f"all {number} images with a diagnosis are {name}: a classifier needs two classes to tell apart")
    single = sorted(name for name, number in counts.items() if number == 1)
    if single and len(counts) > 1:
        names = ", ".join(single[:10]) + (f" and {len(single) - 10} more" if len(single) > 10 else "")
        told.append(f"{len(single)} of {len(counts)} classes have one image only: {names}")
    return told + near_names(counts)


def _letters(name: str) -> str:
    return "".join(letter for letter in name if not letter.isdigit())
