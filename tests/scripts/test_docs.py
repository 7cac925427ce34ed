"""The pages that people read: what they link to is there, and the README stays short."""

import re
from pathlib import Path

import pytest

from server.settings import INTERNAL_VARIABLES, variable_names
from tests.conftest import PROJECT

PAGES = [PROJECT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "AGENTS.md")] + sorted(
    (PROJECT / "docs").glob("*.md")
)
MOST_README_LINES = 150
FOLDERS = "server|runtime|engine_build|moonshine_client|scripts|docker|deploy|tests|benchmarks|docs"


def anchors_of(text: str) -> set[str]:
    """As the usual renderers make them from headings."""
    headings = re.findall(r"(?m)^#+ (.+)$", text)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_links_to_is_there(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors_of(linked.read_text()), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_names_in_the_project_is_there(page):
    named = re.findall(
        r"`((?:server|runtime|engine_build|moonshine_client|scripts|docker|deploy|tests|benchmarks|docs)/[\w./]+)`",
        page.read_text(),
    )
    assert [name for name in named if not (PROJECT / name).exists()] == []


def test_the_readme_is_short():
    assert len((PROJECT / "README.md").read_text().splitlines()) <= MOST_README_LINES


NUMBER = re.compile(r"(?<![\w.-])\d[\d.,]*(?<![.,])(?![\w-]*[\w])")


def tables_of(page: Path) -> str:
    return "\n".join(line for line in page.read_text().splitlines() if line.startswith("|"))


def test_every_figure_of_the_readme_stands_in_a_table_of_the_docs():
    """Figures that are said twice drift apart. The docs have the conditions."""
    known = set(NUMBER.findall("\n".join(map(tables_of, (PROJECT / "docs").glob("*.md")))))
    figures = set(NUMBER.findall(tables_of(PROJECT / "README.md")))
    assert len(figures) > 20 and sorted(figures - known) == []


def test_every_variable_that_a_page_names_is_a_setting():
    known = {*variable_names(), *INTERNAL_VARIABLES}
    for page in PAGES:
        named = set(re.findall(r"\bASR_[A-Z_]+[A-Z]\b", page.read_text()))
        assert named <= known, (page.name, named - known)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_begins_with_what_it_is_about(page):
    assert "After this page" not in page.read_text()
