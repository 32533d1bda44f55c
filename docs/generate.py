"""Writes docs/reference/ from the code, and example programs and tables into other pages.

``python docs/generate.py write`` renews the pages; ``check`` changes nothing and fails if one is
stale or a link between pages leads nowhere. The source of truth is always the code: to change
a reference page, change what it describes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from pages import PAGES, door_limits

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
HEADER = "<!-- Written by docs/generate.py from the code; edit the code instead. -->\n\n"
INCLUDE = re.compile(r"<!-- include: (\S+) -->\n```(\w*)\n.*?```\n", re.DOTALL)
TABLE = re.compile(r"<!-- table: (\S+) -->\n.*?<!-- end of table -->\n", re.DOTALL)
TABLES = {"door-limits": door_limits}


def prose() -> list[Path]:
    """The pages that people write."""
    pages = [path for path in DOCS.rglob("*.md") if REFERENCE not in path.parents]
    return [ROOT / "README.md", *sorted(pages)]


def with_examples(page: str) -> str:
    """The page, each fence below an ``include`` mark holding the file that the mark names."""

    def fence(mark: re.Match[str]) -> str:
        name, language = mark.groups()
        program = (ROOT / name).read_text("utf-8")
        return f"<!-- include: {name} -->\n```{language}\n{program}```\n"

    return INCLUDE.sub(fence, page)


def with_tables(page: str) -> str:
    """The page, each ``table`` mark followed by the table that it names."""

    def rows(mark: re.Match[str]) -> str:
        name = mark[1]
        return f"<!-- table: {name} -->\n\n{TABLES[name]()}\n<!-- end of table -->\n"

    return TABLE.sub(rows, page)


def wanted() -> dict[Path, str]:
    """Every page that depends on code, as it should stand."""
    made = {REFERENCE / name: HEADER + page() for name, page in PAGES.items()}
    shown = {path: with_tables(with_examples(path.read_text("utf-8"))) for path in prose()}
    return made | shown


def anchor(heading: str) -> str:
    """The name by which a heading can be linked to."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def links_and_anchors(page: str) -> tuple[list[str], set[str]]:
    """Where a page leads, and where on it a link can land."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    links = [
        str(child.attrs["href"])
        for token in tokens
        for child in token.children or ()
        if child.type == "link_open"
    ]
    anchors = {
        anchor(text.content) for head, text in pairwise(tokens) if head.type == "heading_open"
    }
    return links, anchors


def broken_links() -> Iterator[str]:
    """Links to files or headings that are not there."""
    pages = {path.resolve(): path.read_text("utf-8") for path in [*prose(), *REFERENCE.iterdir()]}
    parsed = {path: links_and_anchors(page) for path, page in pages.items()}
    for path, (links, _) in parsed.items():
        for link in links:
            if re.match(r"[a-z]+:", link):
                continue
            name, _, heading = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            if not target.exists():
                yield f"{path.relative_to(ROOT)}: {link} does not exist"
            elif heading and heading not in parsed.get(target, ([], {heading}))[1]:
                yield f"{path.relative_to(ROOT)}: {link} names no heading"


def main(verb: str) -> int:
    """Renews the pages, or says which need it."""
    stale = [
        path
        for path, page in wanted().items()
        if not path.exists() or path.read_text("utf-8") != page
    ]
    stale += [path for path in REFERENCE.glob("*") if path.name not in PAGES]
    if verb == "write":
        for path, page in wanted().items():
            path.write_text(page, "utf-8")
        stale = []
    problems = [f"{path.relative_to(ROOT)} is stale" for path in stale] + list(broken_links())
    print("\n".join(problems) or f"{len(PAGES)} reference pages are as the code is")
    if stale:
        print("renew them with: nox -s docs -- write")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "check"))
