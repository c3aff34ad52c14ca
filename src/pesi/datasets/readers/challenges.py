"""The ISIC challenges and HAM10000: for each part of a data set, a folder of images beside tables of labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pesi.datasets.image_files import file_in, folders_in, image_paths, images_by_id, masks_by_id
from pesi.datasets.readers.csv_file import Row, csv_header, rows_by
from pesi.datasets.readers.own_csv import columns_of, person
from pesi.datasets.readers.reading import Reading


@dataclass(frozen=True)
class Part:
    """One part of a data set; of several names of a file the first that is there counts, of folders all.

    Args:
        split: Its official split, None where there is none.
        images: Folders of the images.
        truth: The table of labels.
        persons: A further table: lesion, patient, age, sex, site.
        masks: Folders of lesion masks.
    """

    split: str | None
    images: tuple[str, ...]
    truth: tuple[str, ...] = ()
    persons: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Challenge:
    """One data set.

    Args:
        name: Its name, the records' source.
        looks_for: What tells that a folder is it, for the user.
        parts: Its parts.
        signs: Files or folders of which one tells that a folder is it.
        label: The diagnosis that a row of the truth says.
        needed: Columns that the truth must have.
        header: The truth's columns, where its files have no header.
        listed: Whether the tables say which images there are (the others are labels of the folders' images).
        columns: Columns that a file of a common name (`train.csv`) must have to be this data set's.
    """

    name: str
    looks_for: str
    parts: tuple[Part, ...]
    signs: tuple[str, ...]
    label: Callable[[Row], str]
    needed: tuple[str, ...] = ()
    header: tuple[str, ...] | None = None
    listed: bool = False
    columns: Mapping[str, set[str]] = field(default_factory=dict)

    def file(self, root: Path, names: tuple[str, ...]) -> Path | None:
        """The first of the named files that is there and this data set's."""
        for name in names:
            file = file_in(root, name)
            if file is not None and self.columns.get(name, set()) <= set(csv_header(file)):
                return file
        return None

    def tables(self, root: Path) -> Path:
        """The folder of the tables; of whose images `root` may lack some where it is another one."""
        return root

    def matches(self, root: Path) -> bool:
        """Whether `root` is a folder of this data set."""
        return root.is_dir() and any(self.file(root, (sign,)) or folders_in(root, sign) for sign in self.signs)

    def read(self, root: Path, reading: Reading) -> list[dict[str, Any]]:
        """Its records; images that a table names and that are not there are noted.

        Raises:
            DataError: A bad label, age or sex, or an image twice.
        """
        tables = self.tables(root)
        rows: list[dict[str, Any]] = []
        for part in self.parts:
            folders = folders_in(root, *part.images)
            masks = masks_by_id([*folders, *folders_in(root, *part.masks)], reading.closed)
            truth_file = self.file(tables, part.truth)
            truth = self._table(truth_file, reading, needed=self.needed, header=self.header)
            places = (tables, *folders)
            persons_file = next((file for place in places if (file := self.file(place, part.persons))), None)
            persons = self._table(persons_file, reading)
            if truth_file is not None and not folders and root == tables:
                folders = [root]  # loose beside the table
            images = images_by_id(folders, reading.closed)
            of_all_parts = persons_file is not None and persons_file.name == "metadata.csv"
            if root == tables:
                for row in (*truth.values(), *(() if of_all_parts else persons.values())):
                    reading.image(images, row, _image_column(row), folders or [root / part.images[0]])
            tables_columns = [
                (table, columns_of(next(iter(table.values())).values)) for table in (truth, persons) if table
            ]
            for image_id in truth | persons if self.listed else sorted(images):
                if image_id not in images:
                    continue
                record: dict[str, Any] = {
                    "image_id": image_id,
                    "path": str(images[image_id]),
                    "diagnosis": self.label(truth[image_id]) if image_id in truth else None,
                    "split": part.split,
                    "mask_path": str(masks[image_id]) if image_id in masks else None,
                    "source": self.name,
                }
                for table, columns in tables_columns:
                    if image_id in table:
                        record |= person(table[image_id], columns)
                rows.append(record)
        return rows

    def _table(self, file: Path | None, reading: Reading, **form: Any) -> dict[str, Row]:
        rows = reading.rows(file, **form) if file is not None else []
        return rows_by(rows, _image_column(rows[0])) if rows else {}


def _image_column(row: Row) -> str:
    return columns_of(row.values).get("image_id", "image_id")


# "malignant" is melanoma in ISIC 2016: "malignant (melanoma) or non-malignant (non-melanoma)", its task 3. Benign says
# no more than that. Its ground-truth files have no header: `id,benign` in training, `id,0.0` in test.
_ISIC2016 = {"benign": "BENIGN", "malignant": "MEL", "0.0": "BENIGN", "1.0": "MEL", "0": "BENIGN", "1": "MEL"}
_ISIC2017 = {"melanoma": "MEL", "seborrheic_keratosis": "SK"}  # two zeros: the third diagnosis, a nevus
_ISIC2018 = {"MEL": "MEL", "NV": "NV", "BCC": "BCC", "AKIEC": "AK", "BKL": "BKL", "DF": "DF", "VASC": "VASC"}
_ISIC2019 = {code: code for code in ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")}
# Its further words (unknown, lentigo NOS, cafe-au-lait macule, atypical melanocytic proliferation) have no code of
# their own: those lesions are BENIGN, as `benign_malignant` says.
_ISIC2020 = {
    "melanoma": "MEL",
    "nevus": "NV",
    "seborrheic keratosis": "SK",
    "lichenoid keratosis": "LK",
    "solar lentigo": "SL",
}
# akiec is "actinic keratoses and intraepithelial carcinoma / Bowen's disease" (Tschandl et al. 2018).
_HAM10000 = {"akiec": "AK", "bcc": "BCC", "bkl": "BKL", "df": "DF", "mel": "MEL", "nv": "NV", "vasc": "VASC"}


def _isic2020_label(row: Row) -> str:
    kind = "MALIGNANT" if row.flag("target") else "BENIGN"
    said = {"benign": "BENIGN", "malignant": "MALIGNANT"}
    if row.text("benign_malignant") is not None and row.one_of("benign_malignant", said) != kind:
        raise row.error("benign_malignant", "says another thing than target", "Use the official file, unchanged.")
    code = _ISIC2020.get((row.text("diagnosis") or "unknown").lower(), kind)
    if (code in ("MEL", "MALIGNANT")) != (kind == "MALIGNANT"):
        raise row.error("diagnosis", "says another thing than target", "Use the official file, unchanged.")
    return code


def _parts(form: str, *, persons: str, **splits: str) -> tuple[Part, ...]:
    """Parts whose folders and files are named alike, such as `ISIC_2019_Training_Input`."""
    return tuple(
        Part(
            split, (form.format(name, "Input"),), (form.format(name, "GroundTruth.csv"),), (form.format(name, persons),)
        )
        for split, name in splits.items()
    )


_ISIC2016_PARTS = tuple(
    Part(
        split,
        tuple(f"ISBI2016_ISIC_{task}_{name}_Data" for task in ("Part3", "Part3B")),
        truth=tuple(f"ISBI2016_ISIC_{task}_{name}_GroundTruth.csv" for task in ("Part3", "Part3B")),
        masks=(f"ISBI2016_ISIC_Part1_{name}_GroundTruth",),
    )
    for split, name in (("train", "Training"), ("test", "Test"))
)
_ISIC2017_PARTS = tuple(
    Part(
        split,
        tuple(f"ISIC-2017_{name}_Data" for name in names),
        truth=tuple(f"ISIC-2017_{name}_Part3_GroundTruth.csv" for name in names),
        persons=(*(f"ISIC-2017_{name}_Data_metadata.csv" for name in names), "metadata.csv"),
        masks=tuple(f"ISIC-2017_{name}_Part1_GroundTruth" for name in names),
    )
    for split, names in (("train", ("Training",)), ("val", ("Validation",)), ("test", ("Test_v2", "Test")))
)
_ISIC2020_TRAIN = ("ISIC_2020_Training_GroundTruth_v2.csv", "ISIC_2020_Training_GroundTruth.csv", "train.csv")
_ISIC2020_TEST = ("ISIC_2020_Test_Metadata.csv", "test.csv")
_HAM10000_IMAGES = (
    *("images", "HAM10000_images", "ISIC2018_Task3_Training_Input"),
    *(f"HAM10000_images_part{number}" for number in ("_1", "_2", "1", "2")),
)
_HAM10000_TRUTH = ("HAM10000_metadata.csv", "HAM10000_metadata.tab", "HAM10000_metadata.tsv", "HAM10000_metadata")


class _Isic2017(Challenge):
    """ISIC 2017 with its official splits, in two layouts.

    - The official zip files, unpacked: `ISIC-2017_{Training,Validation,Test_v2}_Data/`, `..._Part3_GroundTruth.csv`,
      and optionally `..._Part1_GroundTruth/` (masks) and `..._Data_metadata.csv` (age, sex).
    - Compact: `images/{train,val,test}/`, `masks/`, the same ground-truth files, `metadata.csv` with age, sex, site.

    A split without a ground-truth file, such as a test set whose labels are held apart, has no diagnoses. A compact
    folder without any ground-truth file, such as `isic2017_512`, takes the files (labels and metadata, by image id) of
    the folder `isic2017` beside it if there is one, because it holds the same images in another size; rows for images
    that it does not hold are then left out.
    """

    def tables(self, root: Path) -> Path:
        beside = root.parent / "isic2017"
        alone = (root / "images").is_dir() and not any(self.file(root, part.truth) for part in self.parts)
        return beside if alone and beside.is_dir() else root

    def matches(self, root: Path) -> bool:
        compact = (root / "images" / str(part.split) for part in self.parts)
        return super().matches(root) or any(
            path.name[:5] == "ISIC_" for folder in compact for path in image_paths(folder)
        )

    def read(self, root: Path, reading: Reading) -> list[dict[str, Any]]:
        if (root / "images").is_dir() and self.parts == _ISIC2017_PARTS:
            parts = tuple(replace(part, images=(f"images/{part.split}",), masks=("masks",)) for part in self.parts)
            return replace(self, parts=parts).read(root, reading)
        return super().read(root, reading)


CHALLENGES: tuple[Challenge, ...] = (
    Challenge(
        "isic2016",
        "ISBI2016_ISIC_Part3_Training_GroundTruth.csv or ISBI2016_ISIC_Part3_Test_GroundTruth.csv (also Part3B)",
        _ISIC2016_PARTS,
        tuple(name for part in _ISIC2016_PARTS for name in part.truth),
        lambda row: row.one_of("label", _ISIC2016),
        header=("image_id", "label"),
    ),
    _Isic2017(
        "isic2017",
        "ISIC-2017_*_Part3_GroundTruth.csv or ISIC-2017_*_Data/, or images/{train,val,test}/ISIC_*.jpg",
        _ISIC2017_PARTS,
        tuple(name for part in _ISIC2017_PARTS for name in (*part.truth, *part.images)),
        lambda row: row.one_hot(_ISIC2017, otherwise="NV"),
        needed=("image_id", *_ISIC2017),
    ),
    Challenge(
        "isic2018",
        "ISIC2018_Task3_Training_GroundTruth.csv (also in a folder of that name)",
        _parts("ISIC2018_Task3_{}_{}", train="Training", val="Validation", test="Test", persons="LesionGroupings.csv"),
        ("ISIC2018_Task3_Training_GroundTruth.csv",),
        lambda row: row.one_hot(_ISIC2018),
        needed=("image", *_ISIC2018),
    ),
    Challenge(
        "isic2019",
        "ISIC_2019_Training_GroundTruth.csv or ISIC_2019_Test_Metadata.csv",
        _parts("ISIC_2019_{}_{}", train="Training", test="Test", persons="Metadata.csv"),
        ("ISIC_2019_Training_GroundTruth.csv", "ISIC_2019_Test_Metadata.csv"),
        lambda row: row.one_hot(_ISIC2019),
        needed=("image", *_ISIC2019),
    ),
    Challenge(
        "isic2020",
        "ISIC_2020_Training_GroundTruth_v2.csv, ISIC_2020_Training_GroundTruth.csv, ISIC_2020_Test_Metadata.csv, or "
        "Kaggle's train.csv with image_name, patient_id, benign_malignant, target",
        (  # the JPEG zip file of the training part unpacks to `train/`; _v2 has lesions too
            Part(
                "train", ("ISIC_2020_Training_JPEG", "ISIC_2020_Training_Input", "train", "jpeg/train"), _ISIC2020_TRAIN
            ),
            Part("test", ("ISIC_2020_Test_JPEG", "ISIC_2020_Test_Input", "test", "jpeg/test"), persons=_ISIC2020_TEST),
        ),
        (*_ISIC2020_TRAIN, "ISIC_2020_Test_Metadata.csv"),
        _isic2020_label,
        needed=("image_name", "patient_id", "target"),
        listed=True,
        columns={
            "train.csv": {"image_name", "patient_id", "benign_malignant", "target"},
            "test.csv": {"image_name", "patient_id", "anatom_site_general_challenge"},
        },
    ),
    Challenge(
        "ham10000",
        "HAM10000_metadata.csv (Harvard Dataverse also names it HAM10000_metadata, without ending, or .tab)",
        (Part(None, _HAM10000_IMAGES, _HAM10000_TRUTH, masks=("masks", "HAM10000_segmentations_lesion_tschandl")),),
        _HAM10000_TRUTH,
        lambda row: row.one_of("dx", _HAM10000),
        needed=("lesion_id", "image_id", "dx"),
        listed=True,
    ),
)
