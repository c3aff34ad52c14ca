"""The verdict: what one check says of one image, with the number and the limit that it rests on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

VerdictLevel = Literal["ok", "warn", "refuse"]


@dataclass(frozen=True)
class Verdict:
    """What one check says of one image.

    Attributes:
        check: Which check, such as "sharpness" or "novelty".
        level: "ok"; "warn": the prediction goes on, with the reason beside it; "refuse": no result.
        value: What was measured, in the check's own unit.
        limit: What it was held against.
        reason: Why, and what to do about it, in sentences for whoever took the picture.
    """

    check: str
    level: VerdictLevel
    value: float
    limit: float
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON; what is not finite becomes None."""
        return {
            "check": self.check,
            "level": self.level,
            "value": self.value if math.isfinite(self.value) else None,
            "limit": self.limit if math.isfinite(self.limit) else None,
            "reason": self.reason,
        }
