"""The diagnosis that a user's word means: ISIC abbreviations and full names in any case, other words as they are."""

from __future__ import annotations

from pesi.taxonomy import DIAGNOSES

# Besides the codes and names of the taxonomy: the words of the data sets' own labels.
_OTHER_NAMES = {
    "nevus": "NV",
    "naevus": "NV",
    "melanocytic naevus": "NV",
    "akiec": "AK",
    "lichenoid keratosis": "LK",
    "benign": "BENIGN",
    "malignant": "MALIGNANT",
    "unknown": "UNK",
}
_CODES = (
    _OTHER_NAMES | {d.name.lower(): d.code for d in DIAGNOSES.values()} | {code.lower(): code for code in DIAGNOSES}
)


def diagnosis_code(word: str) -> str:
    """The ISIC abbreviation that a word means ("Seborrheic_Keratosis" -> "SK"), or the word as it is."""
    return _CODES.get(" ".join(word.replace("_", " ").split()).lower(), word)
