"""docs/licences.md names everything that serving installs."""

from scripts import licences
from tests.conftest import PROJECT


def test_every_package_that_serving_installs_is_listed():
    listed = {line.split(" | ")[0].removeprefix("| ") for line in (PROJECT / "docs" / "licences.md").read_text().splitlines()}
    missing = licences.closure("moonshine-asr", licences.EXTRAS) - {"moonshine-asr"} - listed
    assert not missing, f"{sorted(missing)}: python scripts/licences.py > docs/licences.md"


def test_no_package_keeps_its_licence_to_itself():
    lines = [line for line in (PROJECT / "docs" / "licences.md").read_text().splitlines() if line.startswith("| ")]
    assert len(lines) > 40 and not [line for line in lines if "not said" in line]
