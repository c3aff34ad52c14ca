"""What the network attended to and why, and what a lesion looks like.

The room can be called: `pesi.explain(image)` is `explain.maps.explain_image`.
"""

import inspect
import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *given: Any, **options: Any) -> Any:
        from pesi.explain.maps import explain_image

        return explain_image(*given, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        from pesi.explain.maps import explain_image

        return inspect.signature(explain_image)


sys.modules[__name__].__class__ = _Room
