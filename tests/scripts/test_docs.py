"""The pages that people read: what they link to is there, and the README stays short."""

import re

import pytest

from tests.conftest import PROJECT

PAGES = [PROJECT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")] + sorted((PROJECT / "docs").glob("*.md"))
MOST_README_LINES = 160
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
