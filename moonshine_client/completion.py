"""moonshine-asr completion: a script that completes the command in a shell."""

from moonshine_client.command_line import Parser

SHELLS = ("bash", "zsh")


def main(arguments: list[str]) -> int:
    shell = make_parser().parse_args(arguments).shell

    import shtab

    from moonshine_client.command import whole_parser

    print(shtab.complete(whole_parser(), shell))
    return 0


def make_parser() -> Parser:
    parser = Parser(
        "moonshine-asr completion",
        "Prints a script that completes this command. Source it in the shell's own start file.",
        ('eval "$(moonshine-asr completion bash)"', "moonshine-asr completion zsh > ~/.zfunc/_moonshine-asr"),
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    return parser
