"""How good the predictions are: scores, stress, subgroups, the audit and its report.

The room can be called: `pesi.evaluate(bundle, data)` is `evaluate.scoring.evaluate`.
"""

import inspect
import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *given: Any, **options: Any) -> Any:
        from pesi.evaluate.scoring import evaluate

        return evaluate(*given, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        from pesi.evaluate.scoring import evaluate

        return inspect.signature(evaluate)


sys.modules[__name__].__class__ = _Room
