"""The diagnosis that a word means: ISIC abbreviations and the names that data sets use; other words as they are."""

from __future__ import annotations

import re

from pesi.taxonomy import DIAGNOSES

# Besides the codes and names of the taxonomy: the words of the data sets' own labels.
_OTHER_NAMES = {
    "NV": ("nevus", "naevus", "nevi", "naevi", "melanocytic naevus", "melanocytic nevi", "nev"),
    "MEL": ("malignant melanoma", "melanoma metastasis", "melanoma in situ", "melanoma invasive", "melanomas"),
    "SCC": ("squamous cell carcinoma in situ", "squamous cell carcinoma invasive"),
    "AK": ("akiec", "ack", "actinic keratoses", "solar or actinic keratosis"),
    "BKL": ("pigmented benign keratosis", "benign keratosis like lesions", "benign keratosis like lesion"),
    "SK": ("sek", "seborrheic keratoses", "seborrhoeic keratosis"),
    "LK": ("lichenoid keratosis", "lplk"),
    "VASC": ("vascular lesions", "vascular"),
    "BENIGN": ("benign",),
    "MALIGNANT": ("malignant",),
    "UNK": ("unknown", "indeterminate"),
}
# Words of the ISIC archive and its challenges without a code: the lesion is what its malignancy says, no more.
_NO_CODE = frozenset(
    {
        *("unknown", "other", "lentigo nos", "lentigo simplex", "cafe au lait macule", "scar", "verruca"),
        *("atypical melanocytic proliferation", "aimp", "acrochordon", "adnexal tumor", "neurofibroma"),
        *("angiofibroma or fibrous papule", "clear cell acanthoma", "sebaceous hyperplasia"),
    }
)


def plain(word: str) -> str:
    """A name without case, underscores, hyphens and repeated blanks."""
    return " ".join(re.sub(r"[_\-]", " ", word).split()).lower()


_CODES = (
    {name: code for code, names in _OTHER_NAMES.items() for name in names}
    | {plain(d.name): d.code for d in DIAGNOSES.values()}
    | {code.lower(): code for code in DIAGNOSES}
)
NAMES: tuple[str, ...] = tuple(_CODES)  # every word that is understood, as `plain` writes it


def diagnosis_code(word: str) -> str:
    """The ISIC abbreviation that a word means ("Seborrheic_Keratosis" -> "SK"), or the word as it is."""
    return _CODES.get(plain(word), word)


def without_code(word: str) -> bool:
    """Whether a word of the ISIC archive says less than a malignancy that stands beside it."""
    return plain(word) in _NO_CODE


# The second of the ISIC archive's five levels, where the third does not tell more.
_GROUPS = {
    "malignant melanocytic proliferations (melanoma)": "MEL",
    "benign melanocytic proliferations": "NV",
    "benign soft tissue proliferations vascular": "VASC",
}


def archive_code(levels: list[str | None]) -> str | None:
    """The ISIC abbreviation of the archive's diagnosis_1 (malignancy) to diagnosis_5 (finest); None: all are empty.

    The third level names the disease; where it has no code, finer and then coarser levels are asked. A lesion without
    a code is BENIGN, MALIGNANT or (indeterminate) UNK.
    """
    known = [level for level in levels if level is not None]
    for level in (*levels[2:], levels[1]):
        if level is not None:
            name = re.sub(r",? nos$", "", plain(level))
            code = _CODES.get(name) or _CODES.get(name.split(",")[0]) or _GROUPS.get(name)
            if code is not None:
                return code
    return diagnosis_code(levels[0]) if levels[0] is not None else "UNK" if known else None
