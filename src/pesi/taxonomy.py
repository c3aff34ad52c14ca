"""Diagnoses by their ISIC abbreviations, and the tasks (sets of classes) that networks are trained for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pesi.errors import DataError


@dataclass(frozen=True)
class Diagnosis:
    """One diagnosis of a skin lesion.

    Args:
        code: ISIC abbreviation, the value in a record table's `diagnosis` column.
        name: The name in full.
        malignant: Whether it is a cancer (or, for AK, its precursor); None where the label does not tell.
        parent: The coarser diagnosis that it is a kind of ("" for none).
    """

    code: str
    name: str
    malignant: bool | None
    parent: str = ""


DIAGNOSES: dict[str, Diagnosis] = {
    d.code: d
    for d in (
        Diagnosis("MEL", "melanoma", True),
        Diagnosis("NV", "melanocytic nevus", False),
        Diagnosis("BCC", "basal cell carcinoma", True),
        Diagnosis("SCC", "squamous cell carcinoma", True),
        Diagnosis("AK", "actinic keratosis", True),
        Diagnosis("BKL", "benign keratosis", False),
        Diagnosis("SK", "seborrheic keratosis", False, parent="BKL"),
        Diagnosis("SL", "solar lentigo", False, parent="BKL"),
        Diagnosis("LK", "lichen planus-like keratosis", False, parent="BKL"),
        Diagnosis("DF", "dermatofibroma", False),
        Diagnosis("VASC", "vascular lesion", False),
        # Data sets that tell malignancy but no diagnosis (ISIC 2016, much of ISIC 2020), or something else again.
        Diagnosis("BENIGN", "benign lesion, not specified", False),
        Diagnosis("MALIGNANT", "malignant lesion, not specified", True),
        Diagnosis("UNK", "another or unknown diagnosis", None),
    )
}


@dataclass(frozen=True)
class TaskClass:
    """One output of a network: its name and the diagnosis codes that count as it."""

    name: str
    diagnoses: tuple[str, ...]

    @property
    def malignant(self) -> bool | None:
        """True or False where all its diagnoses agree, None where they don't or are not known."""
        kinds = {DIAGNOSES[code].malignant if code in DIAGNOSES else None for code in self.diagnoses}
        return kinds.pop() if len(kinds) == 1 else None


@dataclass(frozen=True)
class Task:
    """What a network is asked to tell apart.

    Args:
        name: The task's name.
        classes: Its classes, in the order of the network's outputs.
        scored: Names of the classes whose one-vs-rest AUCs make the mean AUC; empty means all.
    """

    name: str
    classes: tuple[TaskClass, ...]
    scored: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names, in the order of the network's outputs."""
        return tuple(c.name for c in self.classes)

    @property
    def scored_names(self) -> tuple[str, ...]:
        """The classes whose one-vs-rest AUCs make the mean AUC."""
        return self.scored or self.class_names

    def has(self, diagnosis: object) -> bool:
        """Whether a class of this task takes the diagnosis code (through its parents); not for a missing one."""
        try:
            self.class_of(str(diagnosis))
        except DataError:
            return False
        return True

    def class_of(self, diagnosis: str) -> int:
        """Index of the class that a diagnosis code belongs to, through its parents.

        Raises:
            DataError: No class of this task takes the diagnosis.
        """
        code = diagnosis
        while code:
            for index, task_class in enumerate(self.classes):
                if code in task_class.diagnoses:
                    return index
            code = DIAGNOSES[code].parent if code in DIAGNOSES else ""
        raise DataError(
            f"Diagnosis {diagnosis!r} belongs to no class of the task {self.name!r} ({', '.join(self.class_names)}).",
            "Choose another task, or leave those images out of the data.",
        )


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "isic2017",
            (
                TaskClass("melanoma", ("MEL",)),
                TaskClass("seborrheic_keratosis", ("SK", "BKL")),
                TaskClass("nevus", ("NV",)),
            ),
            scored=("melanoma", "seborrheic_keratosis"),
        ),
        Task(
            "melanoma",
            (TaskClass("melanoma", ("MEL", "MALIGNANT")), TaskClass("benign", ("NV", "BKL", "DF", "VASC", "BENIGN"))),
            scored=("melanoma",),
        ),
        Task(
            "ham10000",
            tuple(
                TaskClass(name, codes)
                for name, codes in (
                    ("MEL", ("MEL",)),
                    ("NV", ("NV",)),
                    ("BCC", ("BCC",)),
                    ("AKIEC", ("AK", "SCC")),
                    ("BKL", ("BKL",)),
                    ("DF", ("DF",)),
                    ("VASC", ("VASC",)),
                )
            ),
        ),
        Task(
            "isic2019",
            tuple(TaskClass(code, (code,)) for code in ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")),
        ),
    )
}


TASK_NAMES: tuple[str, ...] = (*TASKS, "classes")  # the last: a class of each diagnosis in the data


def task_of(name: str, diagnoses: Iterable[str] = ()) -> Task:
    """The task of that name; `"classes"` makes one class of each distinct value in `diagnoses`.

    Raises:
        DataError: The name is unknown, or fewer than two classes came out.
    """
    if name in TASKS:
        return TASKS[name]
    if name != "classes":
        raise DataError(f"Unknown task {name!r}.", f"Choose one of: {', '.join(TASK_NAMES)}.")
    values = sorted({str(value) for value in diagnoses})
    if len(values) < 2:
        raise DataError(
            f"The data hold {len(values)} class(es): {', '.join(values) or 'none'}.",
            "A classifier needs at least two: check the folder names or the diagnosis column.",
        )
    return Task("classes", tuple(TaskClass(value, (value,)) for value in values))
