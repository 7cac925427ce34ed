"""The pages that people read: what they link to is there, and the README stays short."""

import re

import pytest

from tests.conftest import PROJECT

PAGES = [PROJECT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")] + sorted((PROJECT / "docs").glob("*.md"))
MOST_README_LINES = 180
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


def test_every_figure_of_the_readme_s_reasons_is_in_its_tables():
    """Figures that are said twice drift apart."""
    readme = (PROJECT / "README.md").read_text()
    reasons = readme.partition("## Why this server")[2].partition("\n## ")[0]
    tables = " ".join(line for line in readme.splitlines() if line.startswith("|"))
    figures = set(re.findall(r"\b\d[\d.,]*\b", reasons)) - {"2"}
    assert figures and {figure for figure in figures if not re.search(rf"\b{re.escape(figure)}\b", tables)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_begins_with_what_it_is_about(page):
    assert "After this page" not in page.read_text()
