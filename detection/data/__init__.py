"""Data sets: files to batches. The public names are these; everything else in this package may change."""

from detection.data.annotations import Annotations, DataError
from detection.data.formats import open_split as open
from detection.data.formats import register_format

__all__ = ["Annotations", "DataError", "open", "register_format"]
