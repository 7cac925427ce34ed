"""The command moonshine-asr. Modules of a subcommand are imported only when it is used."""

import argparse
import importlib
import importlib.metadata
import sys
from dataclasses import dataclass
from types import ModuleType

from moonshine_client.command_line import USAGE_STATUS, Parser, did_you_mean

DISTRIBUTION = "moonshine-asr"
HELP_WORDS, VERSION_WORDS = ("help", "--help", "-h"), ("version", "--version", "-V")


@dataclass(frozen=True)
class Subcommand:
    """A module with main(arguments), which returns the exit status, and make_parser()."""

    module: str
    help: str
    extra: str = ""
    """Extra of the package that it needs; empty for the client's own."""


SUBCOMMANDS = {
    "transcribe": Subcommand("moonshine_client.transcribe_command", "transcribe recordings with a running server"),
    "listen": Subcommand("moonshine_client.listen_command", "transcribe a microphone, or audio from a pipe, as it is spoken"),
    "serve": Subcommand("server.command", "build the engine where it is missing, and serve", "server"),
    "cluster": Subcommand("server.ray.command", "serve with replicas on a Ray cluster", "cluster"),
    "build": Subcommand("engine_build.build", "build the engine that is served", "server"),
    "doctor": Subcommand("server.doctor", "what this machine can do, what is missing, and what to type", "server"),
    "turns": Subcommand("server.turns_command", "install the model that judges by their sound whether turns are over", "server"),
    "bench": Subcommand("moonshine_client.bench", "how many live streams this machine carries, in a minute", "server"),
    "completion": Subcommand("moonshine_client.completion", "completion of this command for bash or zsh"),
}
EXAMPLES = (
    f"{DISTRIBUTION} serve --open                     serve, and open the page",
    f"{DISTRIBUTION} transcribe talk.mp3              the text of a recording",
    f"{DISTRIBUTION} transcribe -f srt -o subs *.mp4  subtitles of several videos",
    f"{DISTRIBUTION} listen                           the words of the microphone",
)


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    name, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if name in HELP_WORDS and rest[:1] and rest[0] in SUBCOMMANDS:
        name, rest = rest[0], ["--help"]
    if name in HELP_WORDS:
        print(help_text())
        return 0 if arguments else USAGE_STATUS
    if name in VERSION_WORDS:
        print(f"{DISTRIBUTION} {importlib.metadata.version(DISTRIBUTION)}")
        return 0
    if name not in SUBCOMMANDS:
        print(did_you_mean(f"{DISTRIBUTION} has no command {name!r}", name, list(SUBCOMMANDS)), file=sys.stderr)
        print(f"Type {DISTRIBUTION} help for all commands.", file=sys.stderr)
        return USAGE_STATUS
    return run(name, rest)


def run(name: str, arguments: list[str]) -> int:
    try:
        return int(module_of(name).main(arguments))
    except ModuleNotFoundError as exc:
        extra = SUBCOMMANDS[name].extra
        needed = f"install the package with its extra [{extra}]" if extra else "install the package again"
        print(f"{DISTRIBUTION} {name} needs {exc.name}: {needed}", file=sys.stderr)
        return 1


def module_of(name: str) -> ModuleType:
    """Raises ModuleNotFoundError if the extra is missing."""
    return importlib.import_module(SUBCOMMANDS[name].module)


def help_text() -> str:
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:<{width}}  {subcommand.help}" for name, subcommand in SUBCOMMANDS.items()]
    examples = [f"  {example}" for example in EXAMPLES]
    return "\n".join(
        [
            f"usage: {DISTRIBUTION} COMMAND ...",
            "",
            "Real-time speech-to-text with Moonshine models.",
            "",
            "commands:",
            *lines,
            "",
            "examples:",
            *examples,
            "",
            f"{DISTRIBUTION} help COMMAND describes a command.",
        ]
    )


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser of all commands that are installed, for completion."""
    parser = Parser(DISTRIBUTION, "Real-time speech-to-text with Moonshine models.")
    commands = parser.add_subparsers()
    for name, subcommand in SUBCOMMANDS.items():
        try:
            own = module_of(name).make_parser()
        except ModuleNotFoundError:
            continue
        commands.add_parser(name, description=own.description or "", help=subcommand.help, parents=[own], add_help=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
