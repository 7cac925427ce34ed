"""A file with OpenAI's SDK, text as it comes: python examples/openai_file.py [FILE]"""

import os
import sys

from openai import OpenAI

client = OpenAI(base_url=f"http://{os.environ.get('SERVER', 'localhost:8000')}/v1", api_key="any")
with open(sys.argv[1] if len(sys.argv) > 1 else "samples/mid.wav", "rb") as file:
    for event in client.audio.transcriptions.create(file=file, model="moonshine-base", stream=True):
        if event.type == "transcript.text.delta":
            print(event.delta, end="", flush=True)
print()
