"""Why a scene can't be used: kinds of damage, told from the errors of the readers."""

import re
from pathlib import Path

from geomaestro.data.files.raster import raster_errors
from geomaestro.errors import DataError, GeomaestroError

MISSING, EMPTY, UNREADABLE, SIZE, PLACE = "missing", "empty file", "unreadable", "wrong size", "wrong place"
BLANK, LABEL, ODD, OTHER = "no pixels", "wrong label", "odd pixels", "other"
KINDS = (MISSING, EMPTY, UNREADABLE, SIZE, PLACE, BLANK, LABEL, ODD, OTHER)
# The first whose words are in the message; the messages are those of `stored`, `finding`, `files`, `reading`, `stores`.
WORDS = (
    (EMPTY, r"\(0 bytes\)"),
    (MISSING, r"no such file|files fit|has none of the sensors|has no member|has no dataset"),
    (LABEL, r"has the label|a map of labels"),
    (UNREADABLE, r"unreadable|truncated|not a readable|not readable|can't be read"),
    (PLACE, r"georeference|does not overlap|another grid"),
    (SIZE, r"its spec says|pixels|bands|axes|dates|images"),
)


class RefusedError(DataError):
    """A scene that can't be used, of a kind that is known where it is found."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def kind_of(error: Exception, reason: str) -> str:
    """The kind of damage."""
    if isinstance(error, RefusedError):
        return error.kind
    return next((kind for kind, words in WORDS if re.search(words, reason)), OTHER)


def reason_of(error: Exception) -> str:
    """The error in words; a file without a byte is called so, whatever its reader said."""
    text = str(error)
    path = Path(text.partition(": ")[0].partition("!")[0])
    try:
        hollow = path.is_file() and path.stat().st_size == 0
    except (OSError, ValueError):
        hollow = False
    return f"{path}: is empty (0 bytes); fetch the file again" if hollow else text


def reader_errors(rasters: bool) -> tuple[type[Exception], ...]:
    """What readers raise for damaged files."""
    return (GeomaestroError, OSError, *(raster_errors() if rasters else ()))
