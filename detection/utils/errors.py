"""Errors in what a run can do without."""

import contextlib
import logging
from collections.abc import Iterator

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def optional(what: object) -> Iterator[None]:
    """Turn an error inside into a warning: drawings must not end a run.

    Args:
        what: is drawn, for the message: "WHAT is not drawn: …".
    """
    try:
        yield
    except Exception as error:  # of Pillow, matplotlib, decoders, fonts and disks: any of them
        _LOG.warning("%s is not drawn: %s: %s", what, type(error).__name__, error)
        _LOG.debug("the error's traceback", exc_info=error)
