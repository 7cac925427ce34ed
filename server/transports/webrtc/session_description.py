"""Session descriptions without unused sections: video of any codec and rejected sections never reach aiortc."""

import re
from dataclasses import dataclass

SECTION = re.compile(r"(?m)^(?=m=)")
MID = re.compile(r"(?m)^a=mid:(\S+)")
REJECTED = re.compile(r"m=\S+ 0 ")
BUNDLE_ONLY = re.compile(r"(?m)^a=bundle-only\s*$")
GROUP = re.compile(r"(?m)^a=group:BUNDLE(.*)$")


@dataclass(frozen=True)
class RejectedSection:
    """A section of an offer that the answer rejects."""

    place: int
    """Index among the sections."""
    mid: str | None
    media: str
    """The m= line without its port: kind, protocol, formats."""

    def answered(self) -> str:
        """Return the answer's section, with port 0 (RFC 3264, 6)."""
        kind, rest = self.media.split(" ", 1)
        mid = f"a=mid:{self.mid}\r\n" if self.mid else ""
        return f"m={kind} 0 {rest}\r\nc=IN IP4 0.0.0.0\r\na=inactive\r\n{mid}"


def without_rejected(offer: str) -> tuple[str, list[RejectedSection]]:
    """Return the offer without the sections that the answer rejects, and those sections."""
    head, *sections = SECTION.split(offer)
    kept, rejected = [], []
    for place, section in enumerate(sections):
        if is_rejected(section):
            rejected.append(rejected_of(place, section))
        else:
            kept.append(section)
    mids = {each.mid for each in rejected}
    head = GROUP.sub(lambda group: "a=group:BUNDLE" + "".join(f" {mid}" for mid in group[1].split() if mid not in mids), head)
    return head + "".join(kept), rejected


def is_rejected(section: str) -> bool:
    """Return whether a section is rejected: video, or a section with port 0, which the client itself rejected (RFC 3264, 5.1).

    A section that is bundle-only also has port 0, and is meant to be used (RFC 9143, 6).
    """
    return section.startswith("m=video ") or bool(REJECTED.match(section) and not BUNDLE_ONLY.search(section))


def rejected_of(place: int, section: str) -> RejectedSection:
    kind, _, rest = section.splitlines()[0].removeprefix("m=").split(" ", 2)
    mid = MID.search(section)
    return RejectedSection(place, mid[1] if mid else None, f"{kind} {rest}")


def with_rejected(answer: str, rejected: list[RejectedSection]) -> str:
    """Insert the rejected sections. An answer has a section for each section of the offer, in the same order (RFC 3264, 6)."""
    head, *sections = SECTION.split(answer)
    for each in rejected:
        sections.insert(each.place, each.answered())
    return head + "".join(sections)
