"""What in docs/ is made from the code says what the code says."""

import pytest

from scripts import make_docs


@pytest.mark.parametrize("path", make_docs.PAGES, ids=lambda path: path.name)
def test_the_page_is_that_of_the_code(path):
    assert path.read_text() == make_docs.PAGES[path](), "python scripts/make_docs.py writes it anew"
