"""Readers: tiny trees laid out as the data sets are, and the real ones where present."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pesi.datasets.diagnosis_names import diagnosis_code
from pesi.datasets.readers import READERS, read_dataset
from pesi.datasets.records import COLUMNS
from pesi.errors import DataError


def plant(root: Path, files: Mapping[str, str | None]) -> Path:
    """Write text files, and 8 x 8 pictures where the text is None."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            path.write_text(text, encoding="utf-8")
        else:
            Image.fromarray(np.full((8, 8, 3), 99, dtype=np.uint8)).save(path)
    return root


def column(table: pd.DataFrame, name: str) -> dict[str, object]:
    """A column by image id, None for missing."""
    values = table.set_index("image_id")[name]
    return {image_id: None if pd.isna(value) else value for image_id, value in values.items()}


def names(table: pd.DataFrame, name: str, root: Path) -> dict[str, object]:
    """A column of paths, relative to the root, which must exist."""
    found = {}
    for image_id, path in column(table, name).items():
        assert path is None or (Path(str(path)).is_absolute() and Path(str(path)).is_file())
        found[image_id] = None if path is None else Path(str(path)).relative_to(root).as_posix()
    return found


def refused(root: Path, *parts: str, dataset: str | None = None) -> None:
    """Reading fails, and the message names all the parts."""
    with pytest.raises(DataError) as error:
        read_dataset(root, dataset=dataset)
    for part in parts:
        assert part in str(error.value)
    assert error.value.cure


ISIC2017 = {
    "ISIC-2017_Training_Data/ISIC_1.jpg": None,
    "ISIC-2017_Training_Data/ISIC_1_superpixels.png": None,
    "ISIC-2017_Training_Data/ISIC_2.jpg": None,
    "ISIC-2017_Training_Data/ISIC_3.jpg": None,
    "ISIC-2017_Training_Data/ISIC-2017_Training_Data_metadata.csv": (
        "image_id,age_approximate,sex\nISIC_1,55,female\nISIC_2,unknown,unknown\nISIC_3,30,male\n"
    ),
    "ISIC-2017_Training_Part1_GroundTruth/ISIC_2_segmentation.png": None,
    "ISIC-2017_Training_Part3_GroundTruth.csv": (
        "image_id,melanoma,seborrheic_keratosis\nISIC_1,0.0,0.0\nISIC_2,1.0,0.0\nISIC_3,0.0,1.0\n"
    ),
    "ISIC-2017_Validation_Data/ISIC_4.jpg": None,
    "ISIC-2017_Validation_Part3_GroundTruth.csv": "image_id,melanoma,seborrheic_keratosis\nISIC_4,0,1\n",
    "ISIC-2017_Test_v2_Data/ISIC_5.jpg": None,
    "ISIC-2017_Test_v2_Part1_GroundTruth/ISIC_5_segmentation.png": None,
}


def test_isic2017_official(tmp_path: Path) -> None:
    table = read_dataset(plant(tmp_path, ISIC2017))
    assert tuple(table.columns) == COLUMNS
    assert column(table, "diagnosis") == {
        "ISIC_1": "NV",
        "ISIC_2": "MEL",
        "ISIC_3": "SK",
        "ISIC_4": "SK",
        "ISIC_5": None,
    }
    assert list(table["split"]) == ["train"] * 3 + ["val", "test"]
    assert list(table["source"].unique()) == ["isic2017"]
    assert column(table, "age") == {"ISIC_1": 55.0, "ISIC_2": None, "ISIC_3": 30.0, "ISIC_4": None, "ISIC_5": None}
    assert column(table, "sex")["ISIC_1"] == "female"
    assert column(table, "sex")["ISIC_2"] is None
    assert names(table, "path", tmp_path)["ISIC_5"] == "ISIC-2017_Test_v2_Data/ISIC_5.jpg"
    masks = names(table, "mask_path", tmp_path)
    assert masks["ISIC_2"] == "ISIC-2017_Training_Part1_GroundTruth/ISIC_2_segmentation.png"
    assert masks["ISIC_5"] is not None
    assert masks["ISIC_1"] is None


COMPACT = {
    "images/train/ISIC_1.jpg": None,
    "images/train/ISIC_2.jpg": None,
    "images/val/ISIC_3.jpg": None,
    "images/test/ISIC_4.jpg": None,
    "masks/ISIC_2_segmentation.png": None,
    "metadata.csv": "image_id,split,age_approximate,sex,anatom_site_general\nISIC_1,train,40.0,male,head/neck\n",
    "ISIC-2017_Training_Part3_GroundTruth.csv": (
        "image_id,melanoma,seborrheic_keratosis\nISIC_1,1.0,0.0\nISIC_2,0.0,0.0\n"
    ),
    "ISIC-2017_Validation_Part3_GroundTruth.csv": "image_id,melanoma,seborrheic_keratosis\nISIC_3,0.0,1.0\n",
}


def test_isic2017_compact_and_the_subset_beside_it(tmp_path: Path) -> None:
    whole = read_dataset(plant(tmp_path / "isic2017", COMPACT))
    assert column(whole, "diagnosis") == {"ISIC_1": "MEL", "ISIC_2": "NV", "ISIC_3": "SK", "ISIC_4": None}
    assert column(whole, "site")["ISIC_1"] == "head/neck"
    assert names(whole, "mask_path", tmp_path / "isic2017")["ISIC_2"] == "masks/ISIC_2_segmentation.png"
    pictures = {name: None for name in COMPACT if name.startswith("images/") and "ISIC_2" not in name}
    subset = read_dataset(plant(tmp_path / "isic2017_512", pictures))
    assert column(subset, "diagnosis") == {"ISIC_1": "MEL", "ISIC_3": "SK", "ISIC_4": None}
    assert column(subset, "age")["ISIC_1"] == 40.0
    assert names(subset, "path", tmp_path / "isic2017_512")["ISIC_3"] == "images/val/ISIC_3.jpg"


def test_isic2017_pictures_alone_are_unlabelled(tmp_path: Path) -> None:
    table = read_dataset(plant(tmp_path / "copy", {name: None for name in COMPACT if name.startswith("images/")}))
    assert table["diagnosis"].isna().all()
    assert list(table["split"]) == ["train", "train", "val", "test"]


TRUTH = "ISIC-2017_Training_Part3_GroundTruth.csv"


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        ("ISIC_1,2.0,0.0\n", ("row 2", "melanoma", "'2.0'")),
        ("ISIC_1,0,0\nISIC_2,yes,0\n", ("row 3", "melanoma", "'yes'")),
        ("ISIC_1,1,1\n", ("row 2", "melanoma, seborrheic_keratosis", "two classes")),
        ("ISIC_1,1,\n", ("row 2", "seborrheic_keratosis", "empty")),
        ("ISIC_1,1,0\n\nISIC_9,1,0\n", ("row 4", "image_id", "ISIC_9", "images/train")),
        ("ISIC_1,1,0\nISIC_1,0,0\n", ("row 3", "image_id", "row 2")),
        ("ISIC_1,1,0,7\n", ("row 2", "4 fields")),
        (",1,0\n", ("row 2", "image_id", "empty")),
    ],
)
def test_bad_ground_truth_names_file_row_and_field(tmp_path: Path, lines: str, parts: tuple[str, ...]) -> None:
    plant(tmp_path, COMPACT | {TRUTH: "image_id,melanoma,seborrheic_keratosis\n" + lines})
    refused(tmp_path, TRUTH, *parts)


def test_a_missing_column_or_encoding_is_named(tmp_path: Path) -> None:
    plant(tmp_path, COMPACT | {TRUTH: "image_id,melanoma\nISIC_1,0\n"})
    refused(tmp_path, TRUTH, "seborrheic_keratosis")
    (tmp_path / TRUTH).write_bytes(b"PK\x03\x04 and more of an .xlsx file")
    refused(tmp_path, TRUTH, "Excel", "UTF-8")


def test_two_files_of_one_id_are_refused(tmp_path: Path) -> None:
    refused(plant(tmp_path, COMPACT | {"images/train/ISIC_1.png": None}), "ISIC_1.jpg", "ISIC_1.png")


HAM = {
    "HAM10000_metadata.csv": (
        "lesion_id,image_id,dx,dx_type,age,sex,localization\n"
        "HAM_1,ISIC_1,bkl,histo,80.0,male,scalp\n"
        "HAM_1,ISIC_2,bkl,histo,80.0,male,scalp\n"
        "HAM_2,ISIC_3,akiec,histo,,unknown,unknown\n"
        "HAM_3,ISIC_4,vasc,consensus,0.0,female,back\n"
    ),
    "HAM10000_images_part_1/ISIC_1.jpg": None,
    "HAM10000_images_part_1/ISIC_2.jpg": None,
    "HAM10000_images_part_2/ISIC_3.jpg": None,
    "HAM10000_images_part_2/ISIC_4.jpg": None,
    "masks/ISIC_3_segmentation.png": None,
}


@pytest.mark.parametrize("folder", [None, "images", "ISIC2018_Task3_Training_Input"])
def test_ham10000(tmp_path: Path, folder: str | None) -> None:
    files = {f"{folder}/{Path(k).name}" if folder and "images_part" in k else k: v for k, v in HAM.items()}
    table = read_dataset(plant(tmp_path, files))
    assert column(table, "diagnosis") == {"ISIC_1": "BKL", "ISIC_2": "BKL", "ISIC_3": "AK", "ISIC_4": "VASC"}
    assert list(table["lesion_id"]) == ["HAM_1", "HAM_1", "HAM_2", "HAM_3"]
    assert column(table, "age") == {"ISIC_1": 80.0, "ISIC_2": 80.0, "ISIC_3": None, "ISIC_4": 0.0}
    assert column(table, "sex")["ISIC_3"] is None
    assert column(table, "site") == {"ISIC_1": "scalp", "ISIC_2": "scalp", "ISIC_3": None, "ISIC_4": "back"}
    assert table["split"].isna().all()
    assert names(table, "mask_path", tmp_path)["ISIC_3"] == "masks/ISIC_3_segmentation.png"


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        (",vasc,", ",wart,", ("row 5", "dx", "'wart'", "akiec")),
        (",0.0,", ",old,", ("row 5", "age", "'old'")),
        ("female", "woman", ("row 5", "sex", "'woman'")),
        ("ISIC_4", "ISIC_5", ("row 5", "image_id", "ISIC_5")),
    ],
)
def test_bad_ham10000(tmp_path: Path, old: str, new: str, parts: tuple[str, ...]) -> None:
    text = HAM["HAM10000_metadata.csv"]
    assert text is not None
    plant(tmp_path, HAM | {"HAM10000_metadata.csv": text.replace(old, new)})
    refused(tmp_path, "HAM10000_metadata.csv", *parts)


def test_isic2018(tmp_path: Path) -> None:
    header = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\n"
    table = read_dataset(
        plant(
            tmp_path,
            {
                "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv": header
                + "ISIC_1,0.0,0.0,0.0,1.0,0.0,0.0,0.0\nISIC_2,0,1,0,0,0,0,0\n",
                "ISIC2018_Task3_Training_LesionGroupings.csv": "image,lesion_id,diagnosis_confirm_type\n"
                "ISIC_1,HAM_7,histopathology\nISIC_2,HAM_8,single image expert consensus\n",
                "ISIC2018_Task3_Validation_GroundTruth.csv": header + "ISIC_3,0,0,0,0,0,1,0\n",
                "ISIC2018_Task3_Training_Input/ISIC_1.jpg": None,
                "ISIC2018_Task3_Training_Input/ISIC_2.jpg": None,
                "ISIC2018_Task3_Validation_Input/ISIC_3.jpg": None,
                "ISIC2018_Task3_Test_Input/ISIC_4.jpg": None,
            },
        )
    )
    assert column(table, "diagnosis") == {"ISIC_1": "AK", "ISIC_2": "NV", "ISIC_3": "DF", "ISIC_4": None}
    assert column(table, "lesion_id") == {"ISIC_1": "HAM_7", "ISIC_2": "HAM_8", "ISIC_3": None, "ISIC_4": None}
    assert list(table["split"]) == ["train", "train", "val", "test"]
    (tmp_path / "ISIC2018_Task3_Validation_GroundTruth.csv").write_text(header + "ISIC_3,0,0,0,0,0,0,0\n")
    refused(tmp_path, "ISIC2018_Task3_Validation_GroundTruth.csv", "row 2", "no class")


def test_isic2016(tmp_path: Path) -> None:
    files = {
        "ISBI2016_ISIC_Part3_Training_GroundTruth.csv": "ISIC_1,benign\nISIC_2,malignant\n",
        "ISBI2016_ISIC_Part3_Test_GroundTruth.csv": "ISIC_3,0.0\nISIC_4,1.0\n",
        "ISBI2016_ISIC_Part3_Training_Data/ISIC_1.jpg": None,
        "ISBI2016_ISIC_Part3_Training_Data/ISIC_2.jpg": None,
        "ISBI2016_ISIC_Part3_Test_Data/ISIC_3.jpg": None,
        "ISBI2016_ISIC_Part3_Test_Data/ISIC_4.jpg": None,
        "ISBI2016_ISIC_Part1_Training_GroundTruth/ISIC_1_Segmentation.png": None,
    }
    table = read_dataset(plant(tmp_path, files))
    assert column(table, "diagnosis") == {"ISIC_1": "BENIGN", "ISIC_2": "MEL", "ISIC_3": "BENIGN", "ISIC_4": "MEL"}
    assert list(table["split"]) == ["train", "train", "test", "test"]
    assert names(table, "mask_path", tmp_path)["ISIC_1"] is not None
    (tmp_path / "ISBI2016_ISIC_Part3_Training_GroundTruth.csv").write_text("ISIC_1,benign\nISIC_2,maybe\n")
    refused(tmp_path, "ISBI2016_ISIC_Part3_Training_GroundTruth.csv", "row 2", "label", "'maybe'")


def test_isic2019(tmp_path: Path) -> None:
    codes = "MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
    table = read_dataset(
        plant(
            tmp_path,
            {
                "ISIC_2019_Training_GroundTruth.csv": f"image,{codes}\n"
                "ISIC_1_downsampled,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0\nISIC_2,0,0,0,1,0,0,0,0,0\n",
                "ISIC_2019_Training_Metadata.csv": "image,age_approx,anatom_site_general,lesion_id,sex\n"
                "ISIC_1_downsampled,55.0,anterior torso,MSK4_1,female\nISIC_2,,,,\n",
                "ISIC_2019_Test_Metadata.csv": "image,age_approx,anatom_site_general,sex\nISIC_3,45.0,head/neck,male\n",
                "ISIC_2019_Training_Input/ISIC_1_downsampled.jpg": None,
                "ISIC_2019_Training_Input/ISIC_2.jpg": None,
                "ISIC_2019_Test_Input/ISIC_2019_Test_Input/ISIC_3.jpg": None,
            },
        )
    )
    assert column(table, "diagnosis") == {"ISIC_1_downsampled": "SCC", "ISIC_2": "AK", "ISIC_3": None}
    assert column(table, "lesion_id") == {"ISIC_1_downsampled": "MSK4_1", "ISIC_2": None, "ISIC_3": None}
    assert list(table["split"]) == ["train", "train", "test"]
    assert list(table["site"]) == ["anterior torso", None, "head/neck"]


ISIC2020 = {
    "ISIC_2020_Training_GroundTruth.csv": "image_name,patient_id\nISIC_9,IP_9\n",  # not taken: _v2 is there
    "ISIC_2020_Training_GroundTruth_v2.csv": (
        "image_name,patient_id,lesion_id,sex,age_approx,anatom_site_general_challenge,diagnosis,"
        "benign_malignant,target\n"
        "ISIC_1,IP_1,IL_1,male,45.0,head/neck,unknown,benign,0\n"
        "ISIC_2,IP_1,IL_2,female,50.0,lower extremity,melanoma,malignant,1\n"
        "ISIC_3,IP_2,IL_3,female,,,seborrheic keratosis,benign,0\n"
    ),
    "ISIC_2020_Test_Metadata.csv": "image,patient,age_approx,anatom_site_general,sex\nISIC_4,IP_3,70,torso,male\n",
    "train/ISIC_1.jpg": None,
    "train/ISIC_2.jpg": None,
    "train/ISIC_3.jpg": None,
    "ISIC_2020_Test_Input/ISIC_4.jpg": None,
}


def test_isic2020(tmp_path: Path) -> None:
    table = read_dataset(plant(tmp_path, ISIC2020))
    assert column(table, "diagnosis") == {"ISIC_1": "BENIGN", "ISIC_2": "MEL", "ISIC_3": "SK", "ISIC_4": None}
    assert list(table["patient_id"]) == ["IP_1", "IP_1", "IP_2", "IP_3"]
    assert list(table["lesion_id"]) == ["IL_1", "IL_2", "IL_3", None]
    assert list(table["split"]) == ["train"] * 3 + ["test"]
    assert list(table["site"]) == ["head/neck", "lower extremity", None, "torso"]


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [("malignant,1", "malignant,0", "benign_malignant"), ("malignant,1", ",0", "diagnosis"), ("n,0", "n,x", "target")],
)
def test_isic2020_at_odds_with_itself(tmp_path: Path, old: str, new: str, field: str) -> None:
    name = "ISIC_2020_Training_GroundTruth_v2.csv"
    text = ISIC2020[name]
    assert text is not None
    refused(plant(tmp_path, ISIC2020 | {name: text.replace(old, new)}), name, "row ", field)


PH2 = {
    "PH2_dataset.txt": (
        "||   Name || Histological Diagnosis || Clinical Diagnosis || Asymmetry | Pigment Network || Colors ||\n"
        "|| IMD003 ||                        ||                  0 ||         0 |               T ||      4 ||\n"
        "|| IMD010 ||                        ||                  1 ||         1 |              AT || 3  4   ||\n"
        "|| IMD058 ||     melanoma           ||                  2 ||         2 |              AT || 1  4   ||\n"
        "\nLegends:\n  Clinical Diagnosis: 0 - Common Nevus; 1 - Atypical Nevus; 2 - Melanoma\n"
    ),
    **{
        f"PH2 Dataset images/{name}/{name}_{folder}.bmp": None
        for name in ("IMD003", "IMD010", "IMD058")
        for folder in (f"Dermoscopic_Image/{name}", f"lesion/{name}_lesion")
    },
}


def test_ph2(tmp_path: Path) -> None:
    table = read_dataset(plant(tmp_path, PH2))
    assert column(table, "diagnosis") == {"IMD003": "NV", "IMD010": "NV", "IMD058": "MEL"}
    images, masks = names(table, "path", tmp_path), names(table, "mask_path", tmp_path)
    assert images["IMD003"] == "PH2 Dataset images/IMD003/IMD003_Dermoscopic_Image/IMD003.bmp"
    assert masks["IMD003"] == "PH2 Dataset images/IMD003/IMD003_lesion/IMD003_lesion.bmp"
    text = str(PH2["PH2_dataset.txt"])
    (tmp_path / "PH2_dataset.txt").write_text(text.replace("  2 ||", "  3 ||", 1))
    refused(tmp_path, "PH2_dataset.txt", "row 4", "Clinical Diagnosis", "'3'")
    (tmp_path / "PH2_dataset.txt").write_text(text.replace("IMD010", "IMD011"))
    refused(tmp_path, "PH2_dataset.txt", "row 3", "Name", "IMD011")


DERM7PT = {
    "meta/meta.csv": (
        "case_num,diagnosis,seven_point_score,sex,location,clinic,derm\n"
        "1,reed or spitz nevus,1,female,abdomen,NEL/NEL026.JPG,NEL/NEL025.JPG\n"
        "2,melanoma (in situ),3,male,back,NEL/NEL028.jpg,NEL/Nel027.jpg\n"
        "3,lentigo,1,female,head neck,NEL/NEL032.jpg,NEL/NEL030.jpg\n"
    ),
    "meta/train_indexes.csv": "indexes\n2\n",
    "meta/valid_indexes.csv": "indexes\n0\n",
    "meta/test_indexes.csv": "indexes\n1\n",
    **{f"images/NEL/NEL0{number}.jpg": None for number in (25, 26, 27, 28, 30, 32)},
}


def test_derm7pt(tmp_path: Path) -> None:
    table = read_dataset(plant(tmp_path, DERM7PT))
    assert list(table["diagnosis"]) == ["NV", "MEL", "BENIGN"]
    assert list(table["split"]) == ["val", "test", "train"]
    assert list(names(table, "path", tmp_path).values()) == [f"images/NEL/NEL0{n}.jpg" for n in (25, 27, 30)]
    assert list(table["image_id"]) == ["derm7pt_1", "derm7pt_2", "derm7pt_3"]
    (tmp_path / "meta/test_indexes.csv").write_text("indexes\n3\n")
    refused(tmp_path, "test_indexes.csv", "row 2", "indexes", "'3'")
    (tmp_path / "meta/test_indexes.csv").write_text("indexes\n0\n")
    refused(tmp_path, "test_indexes.csv", "row 2", "val")


def test_folder_of_classes(tmp_path: Path) -> None:
    files = ["melanoma/a.jpg", "Seborrheic Keratosis/b.png", "nv/c.jpeg", "wart/d.jpg", "wart/d_segmentation.png"]
    table = read_dataset(plant(tmp_path, dict.fromkeys(files)))
    assert column(table, "diagnosis") == {"a": "MEL", "b": "SK", "c": "NV", "d": "wart"}
    assert table["split"].isna().all()


def test_folder_with_splits(tmp_path: Path) -> None:
    files = ["train/MEL/1.jpg", "train/NV/1.jpg", "valid/MEL/2.jpg", "test/3.jpg", ".git/x.jpg"]
    table = read_dataset(plant(tmp_path, dict.fromkeys(files)))
    assert column(table, "diagnosis") == {
        "train_MEL_1": "MEL",
        "train_NV_1": "NV",
        "2": "MEL",
        "3": None,
    }
    assert column(table, "split") == {
        "train_MEL_1": "train",
        "train_NV_1": "train",
        "2": "val",
        "3": "test",
    }
    refused(plant(tmp_path, {"extra/9.jpg": None}), "extra")


@pytest.mark.parametrize(
    ("word", "code"),
    [("mel", "MEL"), ("Basal_Cell_Carcinoma", "BCC"), ("nevus", "NV"), ("AKIEC", "AK"), ("Angry Wart", "Angry Wart")],
)
def test_diagnosis_names(word: str, code: str) -> None:
    assert diagnosis_code(word) == code


def test_csv_by_the_record_names(tmp_path: Path) -> None:
    text = (
        "image_id,path,diagnosis,lesion_id,patient_id,split,mask_path,age,sex,site,source\n"
        "one,pictures/x.jpg,melanoma,L1,P1,training,pictures/m.png,61,F,back,clinic\n"
        "two,pictures/y.jpg,,,,,,,,,\n"
    )
    files = {"my.csv": text, "pictures/x.jpg": None, "pictures/y.jpg": None, "pictures/m.png": None}
    for root in (plant(tmp_path, files), tmp_path / "my.csv"):
        table = read_dataset(root)
        first = table.iloc[0].to_dict()
        assert names(table, "path", tmp_path) == {"one": "pictures/x.jpg", "two": "pictures/y.jpg"}
        assert names(table, "mask_path", tmp_path)["one"] == "pictures/m.png"
        assert {k: first[k] for k in COLUMNS if "path" not in k} == {
            "image_id": "one",
            "diagnosis": "MEL",
            "lesion_id": "L1",
            "patient_id": "P1",
            "split": "train",
            "age": 61.0,
            "sex": "female",
            "site": "back",
            "source": "clinic",
        }
        assert table.iloc[1].drop(["image_id", "path", "source"]).isna().all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("filename;label\na.jpg;0\nb.jpg;1\n", {"a": "0", "b": "1"}),
        ("image\tdx\na\tnv\nb\tbcc\n", {"a": "NV", "b": "BCC"}),
        ("image_name,benign_malignant,target\na,benign,0\nb,malignant,1\n", {"a": "BENIGN", "b": "MALIGNANT"}),
        ('\ufeffIMAGE,Label\na,"mole, odd"\n"b",NA\n', {"a": "mole, odd", "b": None}),
        ("path,target,diagnosis\nin/a.jpg,1,df\n./in/b.jpg,0,vasc\n", {"a": "DF", "b": "VASC"}),
    ],
)
def test_csv_by_other_names(tmp_path: Path, text: str, expected: dict[str, str | None]) -> None:
    plant(tmp_path, {"labels.csv": text, "notes.csv": "a,b\n1,2\n", "in/a.jpg": None, "in/b.jpg": None})
    table = read_dataset(tmp_path)
    assert column(table, "diagnosis") == expected
    assert names(table, "path", tmp_path) == {"a": "in/a.jpg", "b": "in/b.jpg"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("path,label\nin/z.jpg,x\n", ("row 2", "path", "z.jpg")),
        ("image,label\nz,x\n", ("row 2", "image", "'z'")),
        ("image,label\na,x\na.jpg,y\n", ("row 3", "image", "row 2")),
        ("image,target\na,melanoma\n", ("row 2", "target", "'melanoma'")),
        ("image,label,split\na,x,later\n", ("row 2", "split", "'later'")),
        ("image,label,mask\na,x,gone.png\n", ("row 2", "mask", "gone.png")),
        ("image,label,age\na,x,-3\n", ("row 2", "age", "'-3'")),
        ("image,label,label\na,x,y\n", ("'label' twice",)),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    refused(plant(tmp_path, {"labels.csv": text, "in/a.jpg": None}), "labels.csv", *parts)


def test_a_csv_column_without_a_name_is_none(tmp_path: Path) -> None:
    """As pandas writes its index: it is no mask, lesion, split or age."""
    pictures = {"in/a.jpg": None, "in/b.jpg": None}
    table = read_dataset(plant(tmp_path, {"labels.csv": ",image,dx\n0,a,nv\n999,b,bcc\n"} | pictures))
    assert column(table, "diagnosis") == {"a": "NV", "b": "BCC"}
    assert table.drop(columns=["image_id", "path", "diagnosis", "source"]).isna().all(axis=None)
    assert set(table["source"]) == {"csv"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file's name is always Unicode")
def test_a_file_name_that_is_no_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "nevus").mkdir()
    (tmp_path / "melanoma").mkdir()
    (tmp_path / "nevus" / "b.jpg").touch()
    Path(os.fsdecode(bytes(tmp_path / "melanoma") + b"/l\xe9sion.jpg")).touch()
    with pytest.raises(DataError, match=r"melanoma/l\\udce9sion\.jpg is not UTF-8") as caught:
        read_dataset(tmp_path)
    assert "Rename" in caught.value.cure


def test_a_csv_names_the_image_in_its_folder(tmp_path: Path) -> None:
    plant(tmp_path, {"p1/IMG.jpg": None, "p2/IMG.jpg": None, "p1/one.jpg": None, "p2/x.jpg": None, "p2/x.png": None})
    table = tmp_path / "c.csv"
    for name, expected in (
        ("p2/IMG.jpg", "p2/IMG.jpg"),
        ("p2/IMG", "p2/IMG.jpg"),
        ("p2\\IMG.jpg", "p2/IMG.jpg"),
        ("one", "p1/one.jpg"),
        ("x.png", "p2/x.png"),
    ):
        table.write_text(f"image,diagnosis\n{name},nevus\n")
        assert list(read_dataset(table)["path"]) == [str(tmp_path / expected)]
    for name, *parts in (
        ("p9/IMG.jpg", "row 2", "which is not in"),
        ("IMG", "row 2", "of which there are 2", "p1/IMG.jpg, p2/IMG.jpg"),
        ("p2/x", "row 2", "of which there are 2", "p2/x.jpg, p2/x.png"),
        ("p1/x.jpg", "row 2", "which is not in"),
    ):
        table.write_text(f"image,diagnosis\n{name},nevus\n")
        refused(table, *parts)
    table.write_text("image,diagnosis\np1/IMG.jpg,nevus\np2/IMG.jpg,melanoma\np1/one,nevus\n")
    records = read_dataset(table).set_index("image_id")
    assert records["path"].to_dict() == {
        "p1_IMG": str(tmp_path / "p1/IMG.jpg"),
        "p2_IMG": str(tmp_path / "p2/IMG.jpg"),
        "one": str(tmp_path / "p1/one.jpg"),
    }
    assert records["diagnosis"].to_dict() == {"p1_IMG": "NV", "p2_IMG": "MEL", "one": "NV"}


def test_a_csv_without_diagnoses_must_be_named_itself(tmp_path: Path) -> None:
    plant(tmp_path, {"list.csv": "image\na\n", "in/a.jpg": None})
    assert column(read_dataset(tmp_path / "list.csv"), "diagnosis") == {"a": None}
    refused(tmp_path, "is no data set that we know", "list.csv", "HAM10000_metadata.csv")


def test_two_csv_files_that_fit_are_refused(tmp_path: Path) -> None:
    plant(tmp_path, {"one.csv": "image,label\na,x\n", "two.csv": "image,label\na,x\n", "in/a.jpg": None})
    refused(tmp_path, "one.csv", "two.csv")


def test_labels_in_a_csv_and_in_folder_names_need_a_word(tmp_path: Path) -> None:
    plant(tmp_path, {"labels.csv": "image,label\na,x\nb,x\n", "MEL/a.jpg": None, "NV/b.jpg": None})
    refused(tmp_path, "folder, csv")
    assert column(read_dataset(tmp_path, dataset="csv"), "diagnosis") == {"a": "x", "b": "x"}
    assert column(read_dataset(tmp_path, dataset="folder"), "diagnosis") == {"a": "MEL", "b": "NV"}


def test_several_data_sets_in_one_folder_need_a_word(tmp_path: Path) -> None:
    plant(tmp_path, PH2 | HAM)
    refused(tmp_path, "ham10000, ph2")
    assert len(read_dataset(tmp_path, dataset="ph2")) == 3
    assert len(read_dataset(tmp_path, dataset="ham10000")) == 4


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "empty folder", *READERS)
    refused(tmp_path / "nowhere", "nowhere")
    refused(tmp_path, "Unknown data set 'isic2042'", "isic2017", dataset="isic2042")
    refused(plant(tmp_path, HAM), "does not look like ph2", "PH2_dataset.txt", dataset="ph2")
    refused(tmp_path / "HAM10000_images_part_1" / "ISIC_1.jpg", "is a file")


def test_a_folder_above_a_data_set_is_not_taken_for_it(tmp_path: Path) -> None:
    plant(tmp_path / "isic2017", COMPACT)
    refused(tmp_path, "holds: isic2017/")


def test_real_isic2017(real_data: Callable[[str], Path]) -> None:
    table = read_dataset(real_data("isic2017"))
    assert len(table) == 2750
    counts = table.groupby(["split", "diagnosis"]).size().unstack()
    assert counts.loc["train", ["MEL", "SK", "NV"]].tolist() == [374, 254, 1372]
    assert counts.loc["val", ["MEL", "SK", "NV"]].tolist() == [30, 42, 78]
    assert ((table["split"] == "test") & table["diagnosis"].isna()).sum() == 600
    assert table["mask_path"].notna().sum() == 2450


def test_real_isic2017_512(real_data: Callable[[str], Path]) -> None:
    real_data("isic2017")
    table = read_dataset(real_data("isic2017_512"))
    assert table["split"].value_counts().to_dict() == {"train": 1800, "test": 529, "val": 121}
    train = table.loc[table["split"] == "train", "diagnosis"]
    assert train.value_counts().to_dict() == {"NV": 1306, "MEL": 352, "SK": 142}
    assert table["mask_path"].notna().all()


def test_real_ham10000(real_data: Callable[[str], Path]) -> None:
    table = read_dataset(real_data("ham10000"))
    assert (len(table), table["lesion_id"].nunique()) == (10015, 7470)
    # Tschandl et al. 2018, table 3.
    assert table["diagnosis"].value_counts().to_dict() == {
        "NV": 6705,
        "MEL": 1113,
        "BKL": 1099,
        "BCC": 514,
        "AK": 327,
        "VASC": 142,
        "DF": 115,
    }
