"""Options, exit statuses and error sentences of the commands that use a running server."""

import argparse
import os
import sys
from collections.abc import Callable

from moonshine_client.addresses import default_server
from moonshine_client.audio_file import AudioFileError
from moonshine_client.errors import StreamError
from moonshine_client.formats import OutputFormat
from moonshine_client.live import NoMicrophone
from moonshine_client.transports import KEY_VARIABLE, reason_of

MICROPHONE, PIPE = "mic", "-"
FILE_REASONS = ("invalid_file", "audio_too_short", "audio_too_long", "file_too_large")
FAILED_STATUS, FILE_STATUS, INTERRUPTED_STATUS = 1, 2, 130
ADVICE = {
    "invalid_api_key": f"the server needs an API key: give --api-key KEY, or set {KEY_VARIABLE}",
    "server_full": "the server is full: try again later",
}
"""Sentences that replace the server's own, by reason."""


def add_server_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server",
        default=default_server(),
        metavar="HOST:PORT",
        help="the running server; else ASR_SERVER, or ASR_HOST and ASR_PORT (default: %(default)s)",
    )
    parser.add_argument(
        "--api-key", metavar="KEY", help=f"the server's API key; other users of this machine do not see it in {KEY_VARIABLE}"
    )
    parser.add_argument(
        "--keyterm",
        action="append",
        default=[],
        metavar="TERM",
        help="a name or phrase that is said and should be written so; may be given again",
    )
    formats = list(OutputFormat)
    parser.add_argument(
        "-f",
        "--format",
        choices=[str(each) for each in formats],
        default=str(OutputFormat.TXT),
        help="what is written (default: txt)",
    )


def use_server_options(options: argparse.Namespace) -> None:
    options.format = OutputFormat(options.format)
    if options.api_key:
        os.environ[KEY_VARIABLE] = options.api_key


def guarded(work: Callable[[], None], options: argparse.Namespace, name: str = "") -> int:
    """Run the work, print an error as one line, and return the exit status. name: the file that the work is about."""
    try:
        work()
    except (AudioFileError, NoMicrophone) as exc:
        print(exc, file=sys.stderr)
        return FILE_STATUS
    except (StreamError, OSError) as exc:
        is_of_file = isinstance(exc, StreamError) and exc.reason in FILE_REASONS
        print(f"{name}: {reason(exc, options)}" if is_of_file else reason(exc, options), file=sys.stderr)
        if isinstance(exc, StreamError) and exc.text:
            print(f"text so far: {exc.text}", file=sys.stderr)
        return FILE_STATUS if is_of_file else FAILED_STATUS
    except KeyboardInterrupt:
        return INTERRUPTED_STATUS
    return 0


def reason(error: Exception, options: argparse.Namespace) -> str:
    """Return a sentence for the user of the command."""
    if isinstance(error, StreamError) and error.reason != "connection_lost":
        if error.reason == "invalid_api_key" and os.environ.get(KEY_VARIABLE):
            return "the server does not accept this API key"
        return ADVICE.get(error.reason, error.message)
    if isinstance(error, ConnectionError | StreamError):
        return unreachable(options.server, str(error))
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror.lower()
    return reason_of(error)


def unreachable(server: str, why: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in why:
        return f"the certificate of {server} is not trusted (certificate verify failed): name its issuer's file in SSL_CERT_FILE"
    if "Name or service not known" in why or "name resolution" in why:
        return f"there is no host of the name in {server}"
    return f"no server answers at {server}: start one with moonshine-asr serve, or name another with --server"


def printed(text: str) -> None:
    """Print the text. The reader may have closed the pipe."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
