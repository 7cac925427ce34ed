"""Subtitles have all words, in order, in cues that can be read."""

import itertools

import srt
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from moonshine_client import subtitles
from server.stream.transcript import Segment
from server.stream.word_times import Word

TEXTS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=12) | st.sampled_from(["end.", "why?", "a<b>&c"])
STEPS = st.tuples(TEXTS, st.integers(1, 2000), st.integers(0, 2000))


@st.composite
def segments(draw) -> list[Segment]:
    found, now = [], 0
    for steps in draw(st.lists(st.lists(STEPS, min_size=1, max_size=20), max_size=4)):
        start, words = now, []
        for text, length, pause in steps:
            words.append(Word(text, now, now + length))
            now += length + pause
        found.append(Segment(" ".join(word.w for word in words), start, now, tuple(words)))
    return found


@given(segments())
def test_cues_have_every_word_once_in_order_and_do_not_overlap(found):
    cues = list(subtitles.cues_of(found))
    assert " ".join(cue.text for cue in cues) == " ".join(segment.text for segment in found)
    times = [time for cue in cues for time in (cue.start_ms, cue.end_ms)]
    assert times == sorted(times)
    assert all(len(cue.text) <= subtitles.MAX_CHARACTERS or " " not in cue.text for cue in cues)


@given(segments())
def test_both_forms_are_read_as_they_were_meant(found):
    cues = list(subtitles.cues_of(found))
    parsed = list(srt.parse(subtitles.srt(found)))
    assert [(cue.content, cue.start.total_seconds()) for cue in parsed] == [(cue.lines, cue.start_ms / 1000) for cue in cues]
    captions = webvtt.from_string(subtitles.vtt(found)).captions
    for caption, cue in itertools.zip_longest(captions, cues):
        assert caption.start_in_seconds == cue.start_ms // 1000 and len(caption.raw_text) >= len(cue.text)


def test_a_segment_without_words_is_a_cue():
    assert subtitles.srt([Segment("one two", 3_661_001, 3_662_500)]) == "1\n01:01:01,001 --> 01:01:02,500\none two\n"


def test_channels_are_named():
    found = [Segment("one <two>", 0, 900, channel=0), Segment("three", 500, 1500, channel=1)]
    assert "\nChannel 1: one <two>\n" in subtitles.srt(found) and "\nChannel 2: three\n" in subtitles.srt(found)
    captions = webvtt.from_string(subtitles.vtt(found)).captions
    assert [(caption.voice, caption.text) for caption in captions] == [("Channel 1", "one &lt;two&gt;"), ("Channel 2", "three")]
    assert subtitles.plain("", found) == "Channel 1: one <two>\nChannel 2: three"
    assert subtitles.plain("one two", [Segment("one two", 0, 900)]) == "one two"


@given(segments())
def test_a_cue_lasts_long_enough_to_be_read_where_there_is_room(found):
    """Answers of one word used to flash by."""
    cues = list(subtitles.cues_of(found))
    for cue, following in itertools.pairwise(cues):
        assert cue.end_ms - cue.start_ms >= min(subtitles.MIN_CUE_MS, following.start_ms - cue.start_ms)
    assert not cues or cues[-1].end_ms - cues[-1].start_ms >= subtitles.MIN_CUE_MS


@given(st.lists(st.text(st.characters(categories=["L"]), min_size=1, max_size=14), min_size=1, max_size=14))
def test_a_long_cue_has_two_lines_that_fit(words):
    text = " ".join(words)
    cue = subtitles.Cue(0, 1000, text[: subtitles.MAX_CHARACTERS].rstrip())
    lines = cue.lines.split("\n")
    assert " ".join(lines) == cue.text and len(lines) <= 2
    longest_word = max(map(len, cue.text.split()))
    assert max(map(len, lines)) <= max(len(cue.text) // 2 + longest_word // 2 + 1, subtitles.LINE_CHARACTERS)
