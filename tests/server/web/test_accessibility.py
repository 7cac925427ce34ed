"""The page for everybody: keyboard, screen readers, fingers, phones."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.server.web.browsing import CHROMIUM, SHORT, stable_words, status, wait_for, wait_for_status, words

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")]
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
LEAST_TOUCH_PIXELS = 44


def faults(page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html'][:120]}" for each in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(served, open_page, scheme):
    page = open_page(served, color_scheme=scheme, bypass_csp=True)
    assert faults(page) == []
    page.set_input_files("#file", SHORT)
    wait_for_status(page, "short.wav is transcribed")
    page.click("#show-developers")
    wait_for(lambda: page.is_visible("#developers") and page.inner_text("#snippet") != "")
    assert faults(page) == []
    page.click("#show-settings")
    assert faults(page) == []


def test_the_keyboard_alone_transcribes_copies_and_clears(page):
    def tab_to(name: str) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == name:
                return
        raise AssertionError(f"{name} cannot be reached")

    tab_to("sample")
    page.keyboard.press("Enter")
    wait_for(lambda: len(stable_words(page)) > 3)
    assert page.text_content("#announced").strip() != "", "screen readers are told what stays"
    tab_to("microphone")
    page.keyboard.press("Space")
    wait_for(lambda: status(page) == "Stopped")
    tab_to("copy")
    page.keyboard.press("Enter")
    assert page.evaluate("navigator.clipboard.readText()").split()[0] == words(page).split()[0]
    tab_to("clear")
    page.keyboard.press("Enter")
    assert words(page) == ""


def test_a_phone_shows_it_all_with_targets_that_fingers_hit(served, open_page):
    page = open_page(served, **PHONE)
    check_phone(page)
    page.set_input_files("#file", SHORT)
    wait_for_status(page, "short.wav is transcribed")
    check_phone(page)
    page.tap("#show-developers")
    wait_for(lambda: page.is_visible("#developers"))
    check_phone(page)


def check_phone(page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["viewport"]["width"]
    for target in page.query_selector_all("button, nav a, label.button, select"):
        box = target.bounding_box()
        if box and "time" not in (target.get_attribute("class") or ""):
            assert box["height"] >= LEAST_TOUCH_PIXELS, target.inner_text()
