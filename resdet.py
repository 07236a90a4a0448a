"""``import resdet``: the public names of backbone and detection, under the name that one installs.

Where both have a name, ``load_weights``, it is detection's; a network's is ``backbone.load_weights``.
"""

from typing import Any

import backbone
import detection
from detection import __version__ as __version__

__all__ = [*detection.__all__, *(name for name in backbone.__all__ if name not in detection.__all__)]


def __getattr__(name: str) -> Any:
    if name in detection.__all__:
        return getattr(detection, name)
    if name in backbone.__all__:
        return getattr(backbone, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
