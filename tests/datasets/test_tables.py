"""Tables as people have them: encodings, separators, index columns, paths of elsewhere, and exports of every kind."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pesi.datasets.diagnosis_names import archive_code
from pesi.datasets.readers import read_dataset, survey_dataset
from pesi.datasets.readers.csv_file import csv_header, read_csv
from pesi.errors import DataError

TABLE = pd.DataFrame(
    {"image_id": ["a", "b"], "diagnosis": ["NV", "MEL"], "age": [45.5, 60.0], "site": ["Rücken", "Arm"]}
)


def plant(root: Path, *names: str) -> Path:
    """8 x 8 pictures of these names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(root / name)
    return root


def told(path: Path, name: str = "diagnosis") -> dict[str, object]:
    """A column by image id, None for missing; nothing was to be said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = read_dataset(path)
    return {i: None if pd.isna(v) else v for i, v in zip(table["image_id"], table[name], strict=True)}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(("separator", "decimal"), [(",", "."), (";", ","), ("\t", ","), ("|", ".")])
def test_what_pandas_writes_in_any_form_is_read_the_same(
    tmp_path: Path, encoding: str, separator: str, decimal: str
) -> None:
    plant(tmp_path, "a.jpg", "b.jpg")
    file = tmp_path / ("table.csv" if separator in ",;" else "table.tsv")
    for index in (False, True):
        text = TABLE.to_csv(index=index, sep=separator, decimal=decimal, lineterminator="\r\n")
        for head in ("", "\r\n", f"sep={separator}\r\n"):
            file.write_bytes((head + text).encode(encoding))
            for root in (tmp_path, file):
                assert told(root) == {"a": "NV", "b": "MEL"}
            assert told(file, "age") == {"a": 45.5, "b": 60.0}
            assert told(file, "site") == {"a": "Rücken", "b": "Arm"}


def test_a_table_in_another_encoding_is_read_and_that_is_said(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg", "b.jpg")
    file = tmp_path / "table.csv"
    file.write_bytes(TABLE.to_csv(index=False).encode("cp1252"))
    with pytest.warns(UserWarning, match="not written in UTF-8; as Windows-1252 it reads 'a,NV,45.5,Rücken'"):
        table = read_dataset(tmp_path)
    assert list(table["site"]) == ["Rücken", "Arm"]
    with pytest.raises(DataError, match="Rücken") as error:  # where nobody would hear of it
        read_csv(file)
    assert "iconv" in error.value.cure
    file.write_bytes(b"image_id,diagnosis\na,\x81\n")  # no letter of Windows-1252
    with pytest.raises(DataError, match="not written in UTF-8"):
        read_dataset(file)
    file.write_bytes(b"PK\x03\x04\x14\x00\x06\x00")
    with pytest.raises(DataError, match="Excel workbook"):
        read_csv(file)


@pytest.mark.parametrize("index", ["", "Unnamed: 0", "Unnamed: 0,Unnamed: 0.1", ",", "Unnamed: 0,"])
def test_index_columns_are_no_columns(tmp_path: Path, index: str) -> None:
    plant(tmp_path, "a.jpg", "b.jpg")
    values = ",".join("7" for _ in index.split(","))
    (tmp_path / "t.csv").write_text(f"{index},image,dx\n{values},a,nv\n{values},b,mel\n")
    assert told(tmp_path) == {"a": "NV", "b": "MEL"}
    assert csv_header(tmp_path / "t.csv") == ["image", "dx"]


def test_row_names_of_r_and_empty_fields_behind_the_last_column(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "t.csv").write_text('"image","dx"\n"1","a","nv"\n"2","b","mel"\n')  # write.table(sep = ",")
    assert told(tmp_path) == {"a": "NV", "b": "MEL"}
    (tmp_path / "t.csv").write_text("image,dx\na,nv,,\nb,mel\n,,,\n")
    assert told(tmp_path) == {"a": "NV", "b": "MEL"}
    (tmp_path / "t.csv").write_text("image,dx\na,nv,7\nb,mel,7\n")
    with pytest.raises(DataError, match="row 2: 3 fields"):
        read_dataset(tmp_path)


def test_ids_stay_as_they_are_written(tmp_path: Path) -> None:
    ids = ["NA", "007", "1e5", "None", "0.10", "true"]
    plant(tmp_path, *(f"{name}.jpg" for name in ids))
    text = io.StringIO()
    csv.writer(text).writerows([("image", "dx", "patient_id", "lesion_id"), *((i, "nv", "0012", "NA") for i in ids)])
    (tmp_path / "t.csv").write_text(text.getvalue())
    table = read_dataset(tmp_path)
    assert list(table["image_id"]) == ids
    assert [Path(path).stem for path in table["path"]] == ids
    assert set(table["patient_id"]) == {"0012"}
    assert table["lesion_id"].isna().all()  # missing, and not one lesion of six images
    (tmp_path / "t.csv").write_text(text.getvalue().replace("007", "7"))
    with pytest.raises(DataError, match="row 3: image names '7'"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("column", ["image", "path", "image_id", "Image Name", "filename"])
@pytest.mark.parametrize(
    "prefix", ["", "in/", "./in/", "in\\", "C:\\data\\in\\", "/home/else/in/", "\\\\server\\share\\in\\", "../x/in/"]
)
@pytest.mark.parametrize("ending", [".jpg", ""])
def test_paths_of_other_systems_in_any_column(tmp_path: Path, column: str, prefix: str, ending: str) -> None:
    plant(tmp_path, "in/a.jpg", "in/b.jpg", "other/b.jpg")  # folders that are no classes beside a table of labels
    name = f"{prefix}a{ending}"
    (tmp_path / "t.csv").write_text(f"{column},dx,mask\n{name},nv,{prefix}b.jpg\n")
    foreign = prefix.startswith(("C", "/", "\\", ".."))
    if not prefix:  # two files are called so
        with pytest.raises(DataError, match=r"'b.jpg', of which there are 2: in/b\.jpg, other/b\.jpg"):
            read_dataset(tmp_path)
        return
    table, reading = survey_dataset(tmp_path)
    assert [list(table[c]) for c in ("image_id", "path", "mask_path")] == [
        ["a"],
        [str(tmp_path / "in/a.jpg")],
        [str(tmp_path / "in/b.jpg")],
    ]
    assert len(reading.remarks) == foreign
    assert all("names 2 files of another place" in remark for remark in reading.remarks)


ARCHIVE = (
    ("Benign", "Benign melanocytic proliferations", "Nevus", "Nevus, Atypical, Dysplastic, or Clark", None, "NV"),
    ("Malignant", "Malignant melanocytic proliferations (Melanoma)", "Melanoma, NOS", None, None, "MEL"),
    ("Malignant", "Malignant melanocytic proliferations (Melanoma)", "Melanoma in situ", "x", None, "MEL"),
    ("Malignant", "Malignant melanocytic proliferations (Melanoma)", None, None, None, "MEL"),
    (
        "Malignant",
        "Malignant adnexal epithelial proliferations - Follicular",
        "Basal cell carcinoma",
        None,
        None,
        "BCC",
    ),
    ("Malignant", "Malignant epidermal proliferations", "Squamous cell carcinoma, NOS", None, None, "SCC"),
    ("Malignant", "Malignant epidermal proliferations", "Squamous cell carcinoma in situ", None, None, "SCC"),
    ("Indeterminate", "Indeterminate epidermal proliferations", "Solar or actinic keratosis", None, None, "AK"),
    ("Benign", "Benign epidermal proliferations", "Seborrheic keratosis", None, None, "SK"),
    ("Benign", "Benign epidermal proliferations", "Pigmented benign keratosis", None, None, "BKL"),
    ("Benign", "Benign epidermal proliferations", "Lichen planus like keratosis", None, None, "LK"),
    ("Benign", "Flat melanotic pigmentations - not melanocytic nevus", "Solar lentigo", None, None, "SL"),
    ("Benign", "Benign soft tissue proliferations - Fibro-histiocytic", "Dermatofibroma", None, None, "DF"),
    ("Benign", "Benign soft tissue proliferations - Vascular", "Hemangioma", None, None, "VASC"),
    ("Benign", "Benign soft tissue proliferations - Fibro-histiocytic", "Scar", None, None, "BENIGN"),
    ("Benign", None, None, None, None, "BENIGN"),
    ("Malignant", "Malignant soft tissue proliferations", None, None, None, "MALIGNANT"),
    ("Indeterminate", "Indeterminate melanocytic proliferations", None, None, None, "UNK"),
    (None, None, None, None, None, None),
)


@pytest.mark.parametrize("line", ARCHIVE)
def test_five_levels_of_the_isic_archive(line: tuple[str | None, ...]) -> None:
    assert archive_code(list(line[:5])) == line[5]


@pytest.mark.parametrize("levels", ["diagnosis_", "iddx_"])
def test_an_export_of_the_isic_archive(tmp_path: Path, levels: str) -> None:
    ids = [f"ISIC_{index:07}" for index in range(len(ARCHIVE))]
    plant(tmp_path, *(f"{image_id}.jpg" for image_id in ids))
    rows = [
        {"isic_id": image_id, "attribution": "Anonymous", "age_approx": 45, "image_type": "dermoscopic"}
        | {f"{levels}{n}": value for n, value in enumerate(line[:5], 1)}
        | {"lesion_id": f"IL_{image_id}", "patient_id": "IP_1", "sex": "male", "anatom_site_general": "head/neck"}
        for image_id, line in zip(ids, ARCHIVE, strict=True)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "metadata.csv", index=False)
    for root in (tmp_path, tmp_path / "metadata.csv"):
        assert told(root) == dict(zip(ids, (line[5] for line in ARCHIVE), strict=True))
        assert told(root, "lesion_id") == {image_id: f"IL_{image_id}" for image_id in ids}
        assert set(told(root, "site").values()) == {"head/neck"}
    rows[0]["image_type"] = "TBP tile: close-up"
    pd.DataFrame(rows).to_csv(tmp_path / "metadata.csv", index=False)
    with pytest.warns(UserWarning, match=f"1 of the {len(ids)} images .* no dermoscopy images"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image,MEL,NV,BKL\na,1.0,0.0,0.0\nb,0.0,1.0,0.0\n", {"a": "MEL", "b": "NV"}),
        ("image_id;MEL;NV\na;1,0;0,0\nb;0,0;0,0\n", {"a": "MEL", "b": "UNK"}),
        (
            "isic_id,melanoma,Basal Cell Carcinoma,SCC\na,False,True,False\nb,False,False,True\n",
            {"a": "BCC", "b": "SCC"},
        ),
        ("image_id,melanoma,seborrheic_keratosis\na,0,0\nb,0,1\n", {"a": "NV", "b": "SK"}),
        ("image,MEL,NV\na,1,0\nb,,\n", {"a": "MEL", "b": None}),
        ("image,MEL,NV,target\na,1,0,7\nb,0,1,3\n", {"a": "MEL", "b": "NV"}),
        ("image,melanoma,malignant\na,1,1\nb,0,0\n", {"a": "MEL", "b": "BENIGN"}),
        ("image,melanoma,malignant\na,1,1\nb,0,1\n", {"a": "MEL", "b": "not melanoma"}),
        ("image,melanoma\na,True\nb,False\n", {"a": "MEL", "b": "not melanoma"}),
        ("image,benign_malignant\na,benign\nb,malignant\n", {"a": "BENIGN", "b": "MALIGNANT"}),
        ("image,target\na,0.0\nb,1.0\n", {"a": "BENIGN", "b": "MALIGNANT"}),
        ("DDI_file,malignant\na.png,False\nb.png,True\n", {"a": "BENIGN", "b": "MALIGNANT"}),
        ("image,benign,malignant\na,1,0\nb,0,1\n", {"a": "BENIGN", "b": "MALIGNANT"}),
        ("image,diagnosis,target\na,unknown,0\nb,melanoma,1\n", {"a": "BENIGN", "b": "MEL"}),
        ("image,diagnosis,benign_malignant\na,lentigo NOS,benign\nb,,malignant\n", {"a": "BENIGN", "b": "MALIGNANT"}),
        ("image,diagnosis,benign_malignant\na,wart,benign\nb,other,indeterminate\n", {"a": "wart", "b": "other"}),
        ("image,diagnosis,target\na,nevus,5\nb,melanoma,0\n", {"a": "NV", "b": "MEL"}),  # a number of a class
        ("bcn_filename,diagnosis,lesion_id\na.jpg,MEL,BCN_1\nb.jpg,AK,BCN_2\n", {"a": "MEL", "b": "AK"}),
    ],
)
def test_labels_in_many_forms(tmp_path: Path, text: str, expected: Mapping[str, str | None]) -> None:
    plant(tmp_path, "a.png", "b.png")
    (tmp_path / "labels.csv").write_text(text)
    assert told(tmp_path) == expected
    assert told(tmp_path / "labels.csv") == expected


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("image,MEL,NV\na,1,1\n", ("row 2", "MEL, NV", "two classes")),
        ("image,MEL,NV\na,0.7,0.3\n", ("row 2", "MEL", "'0.7'")),
        ("image,diagnosis,benign_malignant\na,melanoma,benign\n", ("row 2", "benign_malignant", "MEL")),
        ("image,malignant\na,perhaps\n", ("row 2", "malignant", "'perhaps'")),
        ("image,dx\n..,nv\n", ("row 2", "image", "'..'")),
    ],
)
def test_labels_that_contradict_themselves(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    plant(tmp_path, "a.png")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError) as error:
        read_dataset(tmp_path)
    assert all(part in str(error.value) for part in parts)


def test_pad_ufes_20_is_read_and_said_to_be_no_dermoscopy(tmp_path: Path) -> None:
    codes = {"ACK": "AK", "BCC": "BCC", "MEL": "MEL", "NEV": "NV", "SCC": "SCC", "SEK": "SK"}
    plant(tmp_path, *(f"imgs_part_{n % 3 + 1}/PAT_{n}_1_1.png" for n in range(len(codes))))
    rows = [
        {"patient_id": f"PAT_{n}", "lesion_id": n, "gender": "FEMALE", "age": 50 + n, "fitspatrick": 2.0}
        | {"region": "ARM", "diagnostic": word, "img_id": f"PAT_{n}_1_1.png", "biopsed": True}
        for n, word in enumerate(codes)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "metadata.csv", index=False)
    with pytest.warns(UserWarning, match="6 of the 6 images .* no dermoscopy images"):
        table = read_dataset(tmp_path)
    assert list(table["diagnosis"]) == list(codes.values())
    assert list(table["patient_id"]) == [f"PAT_{n}" for n in range(6)]
    assert list(table["age"]) == [50.0 + n for n in range(6)]
    assert set(table["sex"]) == {"female"}
    assert set(table["source"]) == {"pad_ufes_20"}


def test_kaggle_s_form_of_isic_2020(tmp_path: Path) -> None:
    plant(tmp_path, "jpeg/train/ISIC_1.jpg", "jpeg/train/ISIC_2.jpg", "jpeg/test/ISIC_3.jpg")
    columns = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge"
    (tmp_path / "train.csv").write_text(
        f"{columns},diagnosis,benign_malignant,target\n"
        "ISIC_1,IP_1,male,45.0,torso,unknown,benign,0\nISIC_2,IP_2,male,50.0,torso,melanoma,malignant,1\n"
    )
    (tmp_path / "test.csv").write_text(f"{columns}\nISIC_3,IP_3,female,70.0,head/neck\n")
    (tmp_path / "sample_submission.csv").write_text("image_name,target\nISIC_3,0\n")
    assert told(tmp_path) == {"ISIC_1": "BENIGN", "ISIC_2": "MEL", "ISIC_3": None}
    assert told(tmp_path, "split") == {"ISIC_1": "train", "ISIC_2": "train", "ISIC_3": "test"}
    assert told(tmp_path, "source")["ISIC_1"] == "isic2020"
    assert told(tmp_path / "train.csv") == {"ISIC_1": "BENIGN", "ISIC_2": "MEL"}
    (tmp_path / "train.csv").write_text("image_name,target\nISIC_1,0\nISIC_2,1\n")  # anybody's
    assert told(tmp_path) == {"ISIC_1": "BENIGN", "ISIC_2": "MALIGNANT"}


@pytest.mark.parametrize("name", ["HAM10000_metadata", "HAM10000_metadata.tab", "ham10000_metadata.CSV"])
@pytest.mark.parametrize("folder", ["HAM10000_images_part_1/HAM10000_images_part_1", "ham10000_images_part_2", "."])
def test_ham10000_as_dataverse_and_kaggle_lay_it_out(tmp_path: Path, name: str, folder: str) -> None:
    plant(tmp_path, f"{folder}/ISIC_1.jpg", f"{folder}/ISIC_2.jpg")
    table = pd.DataFrame({"lesion_id": ["HAM_1", "HAM_1"], "image_id": ["ISIC_1", "ISIC_2"], "dx": ["nv", "nv"]})
    table.to_csv(tmp_path / name, index=False, sep="\t" if name.endswith("tab") else ",")
    pd.DataFrame({"pixel0000": [1], "label": [2]}).to_csv(tmp_path / "hmnist_28_28_RGB.csv", index=False)
    assert told(tmp_path) == {"ISIC_1": "NV", "ISIC_2": "NV"}
    assert told(tmp_path, "source")["ISIC_1"] == "ham10000"


def test_files_that_are_not_there_are_all_counted_and_ten_are_named(tmp_path: Path) -> None:
    plant(tmp_path, "a.png")
    lines = ["image,dx,mask", "a,nv,gone.png", *(f"m{n},nv," for n in range(13))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"14 file\(s\)") as error:
        read_dataset(tmp_path)
    assert error.value.problem.count("which is not in") == 10
    assert "and 4 more" in error.value.problem
    assert "--skip-missing" in error.value.cure
    with pytest.warns(UserWarning, match=r"14 file\(s\) .* were left out"):
        table = read_dataset(tmp_path, skip_missing=True)
    assert list(table["image_id"]) == ["a"]
    assert table["mask_path"].isna().all()
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"No image of .* is there, 15 are missing"):
        read_dataset(tmp_path, skip_missing=True)
