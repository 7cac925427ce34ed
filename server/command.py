"""moonshine-asr serve: the server, with every environment variable also as a flag."""

import argparse
import os

from server import __main__ as server_main
from server import settings


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    os.environ.update({name: value for name, value in options.items() if value is not None})  # child processes read them, too
    return server_main.main([])


def parse(arguments: list[str]) -> dict[str, str | None]:
    """Values by environment variable. Exits where a flag is unknown."""
    parser = argparse.ArgumentParser(
        prog="moonshine-asr serve",
        description="Serves until SIGTERM. Every flag is an environment variable, too: --asr-port is ASR_PORT. A flag wins.",
    )
    for group in settings.Settings.model_fields:
        section = parser.add_argument_group(group)
        for _, name, field in (each for each in settings.variables() if each[0] == group):
            default = settings.default_of(field)
            meaning = settings.meaning_of(field) + (f" (default: {default})" if default else "")
            section.add_argument(flag_of(name), dest=name, metavar="VALUE", help=meaning.replace("%", "%%"))
    return vars(parser.parse_args(arguments))


def flag_of(variable: str) -> str:
    """ASR_PORT: --asr-port."""
    return "--" + variable.lower().replace("_", "-")
