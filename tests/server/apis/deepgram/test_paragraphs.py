"""Paragraphs of Deepgram's recordings."""

from hypothesis import given
from hypothesis import strategies as st

from server.apis.deepgram import paragraphs
from server.stream.word_times import Word

WORDS = st.lists(
    st.tuples(
        st.sampled_from(["one", "two,", "three.", "four?", "five!”", "U.S.", "…"]), st.integers(0, 3000), st.integers(1, 900)
    )
)


def spoken(parts: list[tuple[str, int, int]]) -> list[Word]:
    """Words with the pause before each and its length, in milliseconds."""
    words, at = [], 0
    for text, pause, length in parts:
        words.append(Word(text, at + pause, at + pause + length))
        at += pause + length
    return words


@given(parts=WORDS)
def test_every_word_is_in_one_sentence_of_one_paragraph_in_its_order(parts):
    words = spoken(parts)
    found = paragraphs.described(words)
    sentences = [sentence for each in found["paragraphs"] for sentence in each["sentences"]]
    assert " ".join(sentence["text"] for sentence in sentences) == " ".join(word.w for word in words)
    assert found["transcript"].split() == [word.w for word in words]
    assert sum(each["num_words"] for each in found["paragraphs"]) == len(words)
    times = [time for each in found["paragraphs"] for time in (each["start"], each["end"])]
    assert times == sorted(times)
    assert all(1 <= len(each["sentences"]) <= paragraphs.MOST_SENTENCES for each in found["paragraphs"])


def test_a_pause_after_a_sentence_ends_a_paragraph_and_one_within_it_does_not():
    words = spoken([("One,", 0, 300), ("two.", 2000, 300), ("Three.", 200, 300), ("Four.", 1500, 300)])
    found = paragraphs.described(words)
    assert found["transcript"] == "\nOne, two. Three.\n\nFour."
    first, second = found["paragraphs"]
    assert first["sentences"][0] == {"text": "One, two.", "start": 0.0, "end": 2.6}
    assert (first["start"], first["end"], first["num_words"]) == (0.0, 3.1, 3) and second["num_words"] == 1


def test_nothing_said_has_no_paragraphs():
    assert paragraphs.described([]) == {"transcript": "\n", "paragraphs": []}
