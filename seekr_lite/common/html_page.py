"""HTML that needs nothing else, from templates in which a text from data cannot become anything but text.

Templates are `*.html.j2` beside the code that fills them; their names are paths inside this package. Every value is
escaped, and a character that is none to read is shown as a picture. `Markup`, which is not escaped, is made in three
places only: of the charts that we draw ourselves, of our own style and script, and of `<wbr>`.
"""

from __future__ import annotations

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from seekr_lite.common.terminal import printable

PIECES = re.compile(r"[^_ ]{1,14}[_ ]?|[_ ]", re.DOTALL)  # of a name, between which it may break
LEVELS = 10  # shades of a cell; `page.css` has a class for each


def render(template: str, **values: object) -> str:
    """Fills a template of this package, for example `evaluation/scoreboard.html.j2`."""
    return environment().get_template(template).render(values)


@cache
def environment() -> Environment:
    """Where templates are found, and what they can call beside their values."""
    found = Environment(
        loader=PackageLoader("seekr_lite", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else readable(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "breakable": breakable,
        "cut": cut,
        "number": number,
        "policy_hash": policy_hash,
    }
    found.globals |= {"asset": asset, "level": level}
    return found


def readable(value: object) -> str:
    """Anything as a text without control characters, not escaped yet."""
    return printable(str(value).replace("\r\n", "\n"))


def text(value: object) -> Markup:
    """Anything as HTML text, safe in an attribute too; what is no character to read is seen."""
    return escape(readable(value))


def breakable(names: str) -> Markup:
    """Names as HTML text; a long one may break, so that it does not widen the column that it heads."""
    return Markup("<wbr>").join(map(text, PIECES.findall(names)))


def cut(value: str, limit: int) -> str:
    """A text from data or a model without the middle of a long one, which is said."""
    if len(value) <= limit:
        return value
    head, tail = limit // 3, limit - limit // 3
    return f"{value[:head]} [… {len(value) - limit:,} characters left out …] {value[-tail:]}"


def number(value: float | None, digits: int) -> str:
    """A number for people; a dash for what is not known."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def size_of(count: int | None) -> str:
    """A number of bytes for people; a dash for what is not known."""
    if count is None:
        return "–"
    return f"{count:,} B" if count < 10_000 else f"{count / 1e3:,.1f} kB" if count < 1e6 else f"{count / 1e6:,.1f} MB"


def level(share: float) -> str:
    """The class of a cell that is filled to a share from 0 to 1."""
    return f"s{round(LEVELS * min(1.0, max(0.0, share)))}"


def asset(name: str) -> Markup:
    """A style or script of this package."""
    return Markup(files("seekr_lite").joinpath(name).read_text(encoding="utf-8"))


def policy_hash(content: str) -> str:
    """How a content policy names an inline style or script."""
    return f"sha256-{b64encode(sha256(content.encode()).digest()).decode()}"
