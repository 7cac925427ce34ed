"""NVIDIA's Riva client, its realtime one, pointed at this server: python examples/riva_realtime.py [FILE]"""

import argparse
import asyncio
import os
import sys
import wave

from riva.client.realtime import RealtimeClientASR

UNSET = """ssl_root_cert ssl_client_cert ssl_client_key mint_api_key prompt model_name max_alternatives boosted_lm_words
custom_configuration"""
DEFAULT = "start_history start_threshold stop_history stop_history_eou stop_threshold stop_threshold_eou"
CHUNK_SECONDS = 0.1


def arguments(server: str, rate: int) -> argparse.Namespace:
    """Return the arguments that NVIDIA's script for files would set, with this server in place of NVIDIA's."""
    return argparse.Namespace(
        server=server,
        endpoint="/v1/realtime",
        query_params="intent=transcription",
        use_ssl=False,
        mic=False,
        language_code="en-US",
        sample_rate_hz=rate,
        num_channels=1,
        automatic_punctuation=True,
        word_time_offsets=False,
        profanity_filter=False,
        no_verbatim_transcripts=False,
        speaker_diarization=False,
        **dict.fromkeys(UNSET.split()),
        **dict.fromkeys(DEFAULT.split(), -1),
    )


async def main(recording: wave.Wave_read) -> None:
    rate = recording.getframerate()
    client = RealtimeClientASR(arguments(os.environ.get("SERVER", "localhost:8000"), rate))
    await client.connect()
    chunks = list(iter(lambda: recording.readframes(int(rate * CHUNK_SECONDS)), b""))
    await asyncio.gather(client.send_audio_chunks(chunks), client.receive_responses())
    await client.disconnect()
    print(client.final_transcript)


with wave.open(sys.argv[1] if len(sys.argv) > 1 else "samples/short.wav") as file:
    asyncio.run(main(file))
