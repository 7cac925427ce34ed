"""A call as Asterisk's AudioSocket sends it, here a WAV file, and its words: python examples/asterisk_call.py [FILE]

In Asterisk's dialplan: same => n,AudioSocket(${UUID},HOST:9092), with a UUID of the call.
"""

import http.client
import json
import os
import socket
import struct
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
import wave

SERVER = os.environ.get("SERVER", "localhost:8000")
AUDIOSOCKET = os.environ.get("AUDIOSOCKET", "localhost:9092")
HANG_UP, NAME = 0x00, 0x01
AUDIO = {8_000: 0x10, 12_000: 0x11, 16_000: 0x12, 24_000: 0x13, 32_000: 0x14, 44_100: 0x15, 48_000: 0x16}


def frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BH", kind, len(payload)) + payload


def speak(call: socket.socket, recording: wave.Wave_read) -> None:
    """Twenty milliseconds at a time."""
    while pcm := recording.readframes(recording.getframerate() // 50):
        call.sendall(frame(AUDIO[recording.getframerate()], pcm))
        time.sleep(0.02)
    call.sendall(frame(HANG_UP))


def open_events(address: str) -> http.client.HTTPResponse:
    """The words of a call, as soon as the server knows it."""
    while True:
        try:
            return urllib.request.urlopen(address)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
        time.sleep(0.1)


def main(recording: wave.Wave_read) -> None:
    name = uuid.uuid4()
    host, _, port = AUDIOSOCKET.rpartition(":")
    with socket.create_connection((host, int(port))) as call:
        call.sendall(frame(NAME, name.bytes))
        threading.Thread(target=speak, args=(call, recording)).start()
        with open_events(f"http://{SERVER}/v1/channels/{name}/events") as events:
            text = ""
            for line in events:
                if not line.startswith(b"data: "):
                    continue
                said = json.loads(line.removeprefix(b"data: "))
                text = text[: said["offset"]] + said["text"]
                if said["op"] == "interim":
                    print(f"{said['audio_ms'] / 1000:6.2f} s  {text}", file=sys.stderr)
            print(text)


with wave.open(sys.argv[1] if len(sys.argv) > 1 else "samples/short.wav") as file:
    main(file)
