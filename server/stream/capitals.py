"""Capital letters in a segment that continues a sentence: the model writes each segment as if a sentence began there."""

import re

SENTENCE_END = re.compile(r"[.?!…][\"'”’)\]]*$")
FIRST_WORD = re.compile(r"\w+")
SMALL_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a about after all also an and any are as at be because been before but by can could did do does each even every for
        from had has have he her here him his how if in into is it its just like more most much my no nor not now of off on once
        one only or other our out over said she should since so some such than that the their them then there these they this
        those though through to too under until up us very was we were what when where which while who whose why will with would
        you your
        """,
    )
)
"""Words that are not names, so that they have a capital letter only at the beginning of a sentence."""


def goes_on(before: str) -> bool:
    """Return whether the next text continues the last sentence of this one."""
    return bool(before) and not SENTENCE_END.search(before)


def begins_small(text: str) -> bool:
    """Return whether the first word of a text has a capital letter only because it begins a sentence."""
    first = FIRST_WORD.match(text)
    return first is not None and first[0] == first[0].capitalize() and first[0].lower() in SMALL_WORDS


def lowered(text: str) -> str:
    """Return a text with its first letter in lower case."""
    return text[:1].lower() + text[1:]
