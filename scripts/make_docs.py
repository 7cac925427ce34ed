"""Writes the parts of docs/ that are generated from the code: python scripts/make_docs.py"""

import json
import sys
import typing
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[0] = str(PROJECT)  # run as a script: its own folder is on the path, the project is not

from pydantic.fields import FieldInfo  # noqa: E402

from server import settings  # noqa: E402
from server.apis.native import messages  # noqa: E402

INTRODUCTION = """# Configuration

This page lists every setting of the server, its default, and the values that it accepts.

The server reads environment variables once, when it starts. `moonshine-asr serve` also takes each of them as a flag:
`ASR_PORT=9000` is `--asr-port 9000`. A value that cannot be used stops the start with one line that says what is accepted. A
misspelt name is reported. No password is ever printed.

This page is made from `server/settings.py` by `python scripts/make_docs.py`.
"""


def configuration() -> str:
    parts = [INTRODUCTION]
    for group, field in settings.Settings.model_fields.items():
        fields = field.annotation.model_fields.values()
        parts.append(f"## {group.capitalize()}\n\n{field.annotation.__doc__}\n")
        parts.append("| variable | default | accepts | meaning |\n|---|---|---|---|\n" + "".join(map(row, fields)))
    return "\n".join(parts)


def row(field: FieldInfo) -> str:
    default = settings.default_of(field)
    shown = f"`{default}`" if default else ""
    return f"| `{field.alias}` | {shown} | {accepted(field)} | {settings.meaning_of(field)} |\n"


def accepted(field: FieldInfo) -> str:
    choices = [choice for each in (field.annotation, *typing.get_args(field.annotation)) for choice in typing.get_args(each)]
    if names := [choice for choice in choices if isinstance(choice, str)]:
        return ", ".join(f"`{name}`" for name in names)
    bounds = {name: getattr(each, name) for each in field.metadata for name in ("gt", "ge", "le") if hasattr(each, name)}
    if not bounds:
        return "text"
    least = f"more than {bounds['gt']:,g}" if "gt" in bounds else f"{bounds['ge']:,g}"
    return f"{least} to {bounds['le']:,g}" if "le" in bounds else f"{least} or more"


PAGES = {
    PROJECT / "docs" / "configuration.md": configuration,
    PROJECT / "docs" / "protocol.schema.json": lambda: json.dumps(messages.json_schema(), indent=2) + "\n",
}


def main() -> None:
    for path, text in PAGES.items():
        path.write_text(text())
        print(path.relative_to(PROJECT))


if __name__ == "__main__":
    main()
