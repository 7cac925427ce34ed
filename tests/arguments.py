"""What the command-line clients have in common."""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from moonshine_client import audio_file
from moonshine_client.addresses import default_server
from moonshine_client.audio_file import AudioFileError

SAMPLES = Path(__file__).resolve().parent.parent / "samples"


def parser(description: str, file: str, rtf: float) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--server", default=default_server(), metavar="HOST:PORT", help="where the server listens")
    parser.add_argument("--path", default="/webrtc", help="path of the offer")
    parser.add_argument("--file", default=file, metavar="NAME", help="audio of any format and rate; a bare name is in samples/")
    parser.add_argument("--rtf", type=float, default=rtf, metavar="X", help="speed: 1 is real time, 0 as fast as possible")
    parser.add_argument("--full-text", action="store_true", help="print the whole text at the end")
    return parser


def find_file(name: str) -> Path:
    """A path as given from where the user is (the scripts change the directory), or a name in samples/."""
    path = Path(os.environ.get("CALLER_DIR", ".")) / name
    if path.exists():
        return path
    path = Path(name)
    return path if path.exists() or path.parent != Path(".") else SAMPLES / name


def load_audio(name: str) -> np.ndarray:
    """Loads, or ends the program with one line."""
    try:
        return audio_file.load(find_file(name))
    except AudioFileError as exc:
        sys.exit(str(exc))
