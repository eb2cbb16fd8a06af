"""A page as a parser sees it, and what holds of every page that we write."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "wbr", "input"}


class Page(HTMLParser):
    """Tags that are open at the end, ids, links inside the page, scripts, attributes, and the text of each section."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.sections: dict[str, str] = {}
        self._section = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.attributes |= set(values)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [values["href"] or ""] if tag == "a" else []
        if tag == "section":
            self._section = values["id"] or ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.sections[self._section] = self.sections.get(self._section, "") + data


def check_page(content: str) -> Page:
    """Whatever a page shows: it is well-formed, needs nothing else, and runs nothing but its own script."""
    page = Page(content)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert not re.search(r"(https?:)?//[a-z]", content.replace("<!doctype", ""))
    assert {"iframe", "img", "object", "base"}.isdisjoint(page.tags)
    assert page.tags.count("script") <= 1
    assert not {name for name in page.attributes if name.startswith("on") or name in ("src", "style")}
    assert "default-src 'none'" in content
    assert "unsafe-inline" not in content
    return page
