"""One HTML file that needs no server and no network: data as JSON, styles and scripts inside, a Content-Security-Policy."""

import base64
import hashlib
import html
import json
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KINDS = ("u1", "u2", "u4", "f4")
# what would end the element that holds the JSON, or its line in older JavaScript
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def render(title: str, data: Any, *, scripts: Sequence[str] = (), styles: Sequence[str] = ()) -> str:
    """Return an HTML document whose scripts read ``data`` (``page.data`` in base.js) and build the page's elements.

    Nothing outside is requested: the policy allows the document's own scripts by their hashes, styles and data: images,
    and no connection. Texts of the data become text nodes, so that no name is markup.

    Args:
        title: of the document, plain text.
        data: of JSON types, and arrays of :func:`packed`; numbers that are not finite become null.
        scripts: JavaScript, run in this order after base.js.
        styles: CSS, after base.css.
    """
    scripts = [asset("base.js"), *scripts]
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{html.escape(title)}</title>",
            *(f"<style>{style}</style>" for style in (asset("base.css"), *styles)),
            "</head>",
            "<body>",
            "<noscript>This page draws itself with JavaScript, which is switched off.</noscript>",
            f'<script type="application/json" id="data">{to_json(data)}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body>",
            "</html>",
            "",
        )
    )


def to_json(data: Any) -> str:
    """Return JSON in ASCII that may stand in a script element: no ``<``, no ``</script>``; NaN and infinity become null."""
    text = json.dumps(_finite(data), allow_nan=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def packed(values: NDArray[Any], kind: str) -> dict[str, Any]:
    """Return an array for ``page.unpack``, which makes a typed array of it: a third of the size of a list of numbers.

    Args:
        values: of any shape, flattened.
        kind: u1, u2, u4 (unsigned integers of so many bytes) or f4.

    Raises:
        ValueError: another kind, or a value that does not fit.
    """
    if kind not in _KINDS:
        raise ValueError(f"wanted one of {', '.join(_KINDS)}, got {kind!r}")
    flat = np.asarray(values).ravel()
    if kind != "f4" and len(flat) and not (flat.min() >= 0 and flat.max() < 256 ** int(kind[1])):
        raise ValueError(f"values from {flat.min()} to {flat.max()} do not fit {kind}")
    little = flat.astype(np.dtype(f"<{kind}"))
    return {"type": kind, "base64": base64.b64encode(little.tobytes()).decode("ascii")}


def asset(name: str, package: str = "detection.pages") -> str:
    """Return the text of a file of a package, such as base.js."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    if isinstance(data, np.ndarray | np.generic):
        return _finite(data.tolist())
    return data
