"""One HTML page that needs nothing else, and texts that cannot become anything but text.

The page's policy forbids every request; its style and its script are allowed by their hashes, so no other one runs.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files

from seekr_lite.common.terminal import printable

PIECES = re.compile(r"[^_ ]{1,14}[_ ]?|[_ ]", re.DOTALL)  # of a name, between which it may break
LEVELS = 10  # shades of a cell; `page.css` has a class for each


def text(value: object) -> str:
    """Anything as HTML text, safe in an attribute too; what is no character to read is seen (`printable`)."""
    return escape(printable(str(value).replace("\r\n", "\n")))


def breakable(names: str) -> str:
    """Names as HTML text; a long one may break, so that it does not widen the column that it heads."""
    return "<wbr>".join(map(text, PIECES.findall(names)))


def block(value: str, limit: int) -> str:
    """A text from data or a model, as it was written; the middle of a long one is left out, and that is said."""
    if len(value) > limit:
        head, tail = limit // 3, limit - limit // 3
        value = f"{value[:head]} [… {len(value) - limit:,} characters left out …] {value[-tail:]}"
    return f'<span class="data" dir="auto">{text(value)}</span>' if value else '<span class="quiet">(empty)</span>'


def size_of(count: int) -> str:
    """A number of bytes for people."""
    return f"{count:,} B" if count < 10_000 else f"{count / 1e3:,.1f} kB" if count < 1e6 else f"{count / 1e6:,.1f} MB"


def level(share: float) -> str:
    """The class of a cell that is filled to a share from 0 to 1."""
    return f"s{round(LEVELS * min(1.0, max(0.0, share)))}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str, kind: str = "") -> str:
    """A table of ready HTML cells; each row begins with its header. A wide one scrolls by itself, by keyboard too."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    return (
        f'<div class="wide" role="group" tabindex="0" aria-label="{text(re.sub("<[^>]*>", "", caption))}">'
        f'<table class="{kind}"><caption>{caption}</caption><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def section(name: str, title: str, content: str) -> str:
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>\n{content}</section>'
    )


def contents(sections: Sequence[tuple[str, str]]) -> str:
    """Links to the sections of the page: (id, title)."""
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in sections)
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>'


def page(title: str, header: str, main: str, footer: str, script: str = "") -> str:
    """A whole document. The parts are HTML already; `title` and everything inside them went through `text`.

    script: the name of a script of this package.
    """
    style = _asset("seekr_lite.common", "page.css")
    code = _asset("seekr_lite.tools.report", script) if script else ""
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(code)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<header>\n{header}\n</header>\n<main>\n{main}\n</main>\n<footer>{footer}</footer>\n"
        + (f"<script>{code}</script>\n" if code else "")
        + "</body>\n</html>\n"
    )


def _asset(package: str, name: str) -> str:
    return (files(package) / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """How a content policy names an inline style or script; `'none'` for nothing."""
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'" if content else "'none'"
