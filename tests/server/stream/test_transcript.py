"""Hypotheses into text: stable text never changes, what is shown seldom does, and nothing is said twice."""

import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.tokenizer import Tokenizer
from server.stream.transcript import NOTHING, Hypothesis, TokenProbability, Transcript
from server.stream.word_times import Word

WORDS = ["", "", "", "▁the", "▁cat", "▁sat", "▁on", "▁a", "▁mat", "s", ".", ",", "<0xC3>", "<0xA9>", "▁", "▁The", "odore", "▁Cat"]
TOKENIZER = Tokenizer(WORDS)
SURE, FAIR, DOUBTFUL, UNSURE = 0.0, -0.4, -0.9, -2.0


def tokens_of(text: str) -> tuple[int, ...]:
    return tuple(WORDS.index(piece) for piece in text.split())


def hypothesis_of(text: str, log_prob: float = SURE) -> Hypothesis:
    tokens = tokens_of(text)
    return Hypothesis(tokens, (log_prob,) * len(tokens))


def make(agreement: int = 2) -> Transcript:
    return Transcript(TOKENIZER, agreement)


def hear(transcript: Transcript, *texts: str, log_prob: float = SURE, complete: bool = False) -> str:
    """Returns the text in sight."""
    for text in texts:
        transcript.update(hypothesis_of(text, log_prob), complete)
    return transcript.text


def stable_text(transcript: Transcript) -> str:
    return transcript.text[: transcript.stable]


def test_words_that_two_hypotheses_share_become_stable_but_for_the_last():
    transcript = make()
    hear(transcript, "▁the ▁cat")
    assert transcript.stable == 0
    hear(transcript, "▁the ▁cat ▁sat")
    assert stable_text(transcript) == "the cat"
    hear(transcript, "▁the ▁cat ▁sat ▁on")
    assert stable_text(transcript) == "the cat sat"
    assert transcript.draft[: transcript.forced] == tokens_of("▁the ▁cat ▁sat"), "what is stable is forced from now on"


def test_behind_a_pause_the_last_word_is_whole():
    transcript = make()
    assert hear(transcript, "▁the ▁cat", complete=True) == "the cat"
    hear(transcript, "▁the ▁cat", complete=True)
    assert stable_text(transcript) == "the cat"


def test_no_half_word_and_no_bare_punctuation_becomes_stable():
    transcript = make()
    hear(transcript, "▁cat s ▁sat", "▁cat ▁sat ▁on")
    assert transcript.stable == 0, "cat or cats is open"
    hear(transcript, "▁cat , ▁sat", "▁cat , ▁sat ▁on")
    assert stable_text(transcript) == "cat, sat"


def test_the_less_the_model_believes_the_more_hypotheses_must_agree():
    for log_prob, needed in ((SURE, 2), (-0.2, 3), (FAIR, 4), (DOUBTFUL, 8)):
        transcript = make()
        for heard in range(1, needed + 1):
            assert transcript.stable == 0, f"after {heard - 1} at {log_prob}"
            hear(transcript, "▁the ▁cat", log_prob=log_prob)
        assert stable_text(transcript) == "the"
    hear(unsure := make(), *["▁the ▁cat"] * 20, log_prob=UNSURE)
    assert unsure.stable == 0


def test_of_punctuation_less_is_asked():
    transcript = make()
    for _ in range(2):
        transcript.update(Hypothesis(tokens_of("▁cat , ▁sat"), (SURE, -0.9, SURE)))
    assert stable_text(transcript) == "cat,"


def test_more_agreement_can_be_asked_for():
    transcript = make(agreement=3)
    hear(transcript, "▁the ▁cat", "▁the ▁cat")
    assert transcript.stable == 0
    hear(transcript, "▁the ▁cat")
    assert stable_text(transcript) == "the"
    with pytest.raises(ValueError, match="at least 2"):
        make(agreement=1)


def test_a_word_is_shown_when_it_is_believed_or_heard_twice():
    transcript = make()
    assert hear(transcript, "▁the ▁cat ▁sat") == "the cat", "the last one may be half a word"
    assert hear(transcript, "▁the ▁cat ▁sat") == "the cat sat"
    doubted = make()
    assert hear(doubted, "▁the ▁cat ▁sat", log_prob=-0.8) == ""
    assert hear(doubted, "▁the ▁cat ▁sat", log_prob=-0.8) == "the cat sat"
    unsure = make()
    assert hear(unsure, "▁the ▁cat ▁sat", log_prob=UNSURE) == ""
    assert hear(unsure, "▁the ▁cat ▁sat", log_prob=UNSURE) == "the cat"


def test_a_doubted_word_is_shown_when_enough_words_follow_it():
    assert hear(make(), "▁the ▁cat ▁sat ▁on ▁a ▁mat", log_prob=UNSURE) == "the cat"


def test_a_doubted_word_is_stable_when_many_follow_it_in_several_hypotheses():
    transcript, text = make(), "▁the ▁cat ▁sat ▁on ▁a ▁mat ▁the ▁cat ▁sat ▁on"
    hear(transcript, *[text] * 2, log_prob=UNSURE)
    assert transcript.stable == 0
    hear(transcript, text, log_prob=UNSURE)
    assert stable_text(transcript) == "the cat"


def test_what_is_shown_stays_until_hypotheses_in_a_row_say_otherwise_and_alike():
    transcript = make()
    assert hear(transcript, "▁the ▁cat ▁sat ▁on ▁a") == "the cat sat on"
    assert hear(transcript, "▁a ▁mat ▁sat ▁on ▁a ▁mat") == "the cat sat on a", "what is new behind it is shown"
    assert hear(transcript, "▁the ▁cat ▁sat ▁on ▁a ▁mat") == "the cat sat on a"
    moving = make()
    hear(moving, "▁the ▁cat ▁sat ▁on ▁a", log_prob=FAIR)
    said = hear(moving, *["▁a ▁mat ▁sat ▁on ▁a"] * 2, log_prob=FAIR)
    assert said == "the cat sat on a", "two in a row are not enough where so much follows"
    assert hear(moving, "▁a ▁mat ▁sat ▁on ▁a", log_prob=FAIR) == "a mat sat on a", "and as much of it as before"
    late = make()
    hear(late, "▁the ▁cat ▁sat ▁on")
    assert hear(late, *["▁the ▁cat ▁on ▁a"] * 2) == "the cat on a", "two are where little does"


def test_a_committed_segment_is_stable_and_joined_with_a_space():
    transcript = make()
    transcript.commit(hypothesis_of("▁the ▁cat ."), 0, 1000)
    hear(transcript, "▁a ▁mat")
    assert transcript.text == "the cat. a" and stable_text(transcript) == "the cat."
    assert [(each.text, each.start_ms, each.end_ms) for each in transcript.segments] == [("the cat.", 0, 1000)]


def test_behind_a_cut_through_speech_the_rest_stays_in_sight_and_stable():
    transcript = make()
    hear(transcript, "▁the ▁cat ▁sat ▁on ▁a ▁mat", "▁the ▁cat ▁sat ▁on ▁a ▁mat")
    assert transcript.text == "the cat sat on a mat" and stable_text(transcript) == "the cat sat on a"
    transcript.commit(hypothesis_of("▁the ▁cat ▁sat"), 0, 1000, rest=hypothesis_of("▁on ▁a ▁mat"))
    assert transcript.text == "the cat sat on a mat" and stable_text(transcript) == "the cat sat on a"
    assert transcript.draft == tokens_of("▁on ▁a ▁mat") and transcript.forced == 2
    hear(transcript, "▁on ▁a ▁mat ▁sat")
    assert stable_text(transcript) == "the cat sat on a mat", "the rest counts as one hypothesis"


def test_an_empty_segment_leaves_no_trace():
    transcript = make()
    transcript.commit(NOTHING, 0, 1000)
    transcript.commit(hypothesis_of("▁cat"), 1000, 2000)
    assert transcript.text == "cat" and len(transcript.segments) == 1


def test_a_character_cut_off_in_its_bytes_is_not_shown_yet():
    transcript = make()
    assert hear(transcript, *["▁cat <0xC3>"] * 2) == "cat"
    assert hear(transcript, *["▁cat <0xC3> <0xA9>"] * 2) == "caté"


def test_memory_does_not_grow_with_the_hypotheses_of_a_segment():
    def kept(count: int) -> int:
        transcript, kept = make(), weakref.WeakSet[Hypothesis]()
        for number in range(count):
            hypothesis = Hypothesis(tokens_of("▁the ▁cat"), (UNSURE, UNSURE - number))  # each is one of its own
            transcript.update(hypothesis, False)
            kept.add(hypothesis)
        return len(kept)

    assert kept(1000) == kept(100) < 100


hypothesis_tokens = st.lists(st.integers(3, len(WORDS) - 1), max_size=12)
happening = st.one_of(
    st.tuples(st.just("update"), hypothesis_tokens, st.booleans(), st.sampled_from([SURE, FAIR, UNSURE])),
    st.tuples(st.just("commit"), hypothesis_tokens, st.integers(0, 12), st.just(SURE)),
)


@given(happenings=st.lists(happening, max_size=40), agreement=st.integers(2, 4))
def test_stable_text_never_changes_over_any_sequence_of_hypotheses(happenings, agreement):
    """As long as each hypothesis begins with what was forced, which decoding sees to; commits cut it anywhere between words."""
    transcript, stable = make(agreement), ""
    for kind, tokens, detail, log_prob in happenings:
        tokens = (*transcript.draft[: transcript.forced], *tokens)
        log_probs = (log_prob,) * len(tokens)
        if kind == "update":
            transcript.update(Hypothesis(tokens, log_probs), complete=detail)
        else:
            begins = [index for index, token in enumerate(tokens) if index == 0 or TOKENIZER.starts_word(token)]
            count = begins[detail] if detail < len(begins) else len(tokens)
            transcript.commit(
                Hypothesis(tokens[:count], log_probs[:count]), 0, 1, rest=Hypothesis(tokens[count:], log_probs[count:])
            )
        assert stable_text(transcript).startswith(stable), f"{stable!r} became {stable_text(transcript)!r}"
        stable = stable_text(transcript)


def test_a_segment_keeps_its_tokens_where_they_are_asked_for():
    transcript = Transcript(TOKENIZER)
    transcript.commit(hypothesis_of("▁the ▁cat ."), 0, 1000, with_tokens=True)
    transcript.commit(hypothesis_of("▁sat"), 1000, 2000)
    kept, without = transcript.segments
    assert [token.text for token in kept.tokens] == [b" the", b" cat", b"."] and without.tokens == ()
    assert kept.tokens[0] == TokenProbability(b" the", hypothesis_of("▁the").log_probs[0])


# Capitals where a segment goes on within a sentence


def committed(*texts: str) -> Transcript:
    transcript = make()
    for text in texts:
        hypothesis = hypothesis_of(text)
        words = tuple(Word(word, 0, 1) for word in TOKENIZER.text(hypothesis.tokens).split())
        transcript.commit(hypothesis, 0, 1000, words=words, with_tokens=True)
    return transcript


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ("▁the ▁cat", "▁The ▁mat", "the cat the mat"),
        ("▁the ▁cat ,", "▁The ▁mat", "the cat, the mat"),
        ("▁the ▁cat .", "▁The ▁mat", "the cat. The mat"),
        ("▁the ▁cat", "▁The odore", "the cat Theodore"),
        ("▁the ▁cat", "▁Cat", "the cat Cat"),
        ("", "▁The ▁mat", "The mat"),
    ],
)
def test_a_segment_within_a_sentence_begins_small_unless_it_may_be_a_name(before, after, text):
    transcript = committed(before, after)
    assert transcript.text == text == " ".join(segment.text for segment in transcript.segments)
    for segment in transcript.segments:
        assert " ".join(word.w for word in segment.words) == segment.text
        assert b"".join(token.text for token in segment.tokens).decode().strip() == segment.text


PIECES = ("▁the", "▁The", "▁cat", "▁Cat", "odore", "s", ".", ",")


@given(
    before=st.lists(st.sampled_from(PIECES), max_size=3),
    hypotheses=st.lists(st.tuples(st.lists(st.sampled_from(PIECES), max_size=6), st.booleans()), max_size=8),
    cut=st.integers(0, 6),
)
def test_no_capital_of_stable_text_changes(before, hypotheses, cut):
    transcript = committed(" ".join(before))
    stable = stable_text(transcript)
    for pieces, complete in hypotheses:
        tokens = (*transcript.draft[: transcript.forced], *tokens_of(" ".join(pieces)))
        newest = Hypothesis(tokens, (SURE,) * len(tokens))
        transcript.update(newest, complete)
        assert stable_text(transcript).startswith(stable)
        stable = stable_text(transcript)
    tokens = transcript.draft
    hypothesis = Hypothesis(tokens, (SURE,) * len(tokens))
    while cut < len(tokens) and not TOKENIZER.starts_word(tokens[cut]):
        cut += 1
    closed, rest = hypothesis.divided(cut)
    transcript.commit(closed, 0, 1, rest=rest)
    assert stable_text(transcript).startswith(stable)


def test_what_is_written_in_capitals_and_what_begins_after_a_flush_or_a_silence_stays_as_it_is():
    words = ["", "", "", "▁the", "▁US", "▁troops", "▁What"]
    transcript = Transcript(Tokenizer(words))
    transcript.commit(Hypothesis((3,), (SURE,)), 0, 1)
    transcript.commit(Hypothesis((4, 5), (SURE, SURE)), 1, 2, with_tokens=True)
    assert transcript.text == "the US troops"
    transcript.end_sentence()
    transcript.commit(Hypothesis((6,), (SURE,)), 2, 3)
    transcript.commit(NOTHING, 3, 60_000)
    transcript.commit(Hypothesis((6,), (SURE,)), 60_000, 60_001)
    assert transcript.text == "the US troops What What"
