"""Command lines whose help shows examples, and whose errors suggest the word that was probably meant."""

import argparse
import difflib
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

WIDTH = 79
USAGE_STATUS = 2
FLAG = re.compile(r"--[a-z][\w-]*")
UNKNOWN = re.compile(r"unrecognized arguments: (\S+)")
NO_CHOICE = re.compile(r"argument (?P<name>.+): invalid choice: '(?P<value>.*)' \(choose from (?P<choices>.*)\)")


class Parser(argparse.ArgumentParser):
    """A parser with examples. prog: the whole command. examples: command lines that are shown at the end of the help."""

    def __init__(self, prog: str, description: str, examples: Sequence[str] = (), **more: Any):
        more.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        shown = "\n".join(["examples:", *(f"  {example}" for example in examples)]) if examples else None
        super().__init__(prog=prog, description=textwrap.fill(description, WIDTH), epilog=shown, allow_abbrev=False, **more)

    def error(self, message: str) -> NoReturn:
        """Print the error and a hint, in place of the whole usage."""
        self.exit(USAGE_STATUS, f"{self.prog}: {self._explained(message)}\nType {self.prog} --help for all options.\n")

    def _explained(self, message: str) -> str:
        if unknown := UNKNOWN.search(message):
            return did_you_mean(f"there is no {unknown[1]}", unknown[1].partition("=")[0], FLAG.findall(self.format_help()))
        if refused := NO_CHOICE.search(message):
            choices = re.findall(r"[\w.+-]+", refused["choices"])
            said = f"{refused['name']} cannot be {refused['value']!r}: choose from {', '.join(choices)}"
            return did_you_mean(said, refused["value"], choices)
        return message


def did_you_mean(said: str, word: str, known: Sequence[str]) -> str:
    """Return the sentence with the known word that is most similar to this one, if there is one."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"{said}; did you mean {near[0]}?" if near else said
