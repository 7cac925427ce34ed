"""Names of sessions that have their own address. Load balancers and gateways can read the owner of a session from its name."""

import re
import secrets
from dataclasses import dataclass

from server.errors import ClientError, Code

RANDOM_BYTES = 24  # anyone who knows a session's address may end it
NAME = r"(?P<replica>[A-Za-z0-9._-]+)\.(?P<gateway>[0-9]{1,3})-[A-Za-z0-9_-]+"
"""Pattern of a session's name; its random part has no dot."""
SESSION_PATH = re.compile(rf"/(?:whip/session/|v1/realtime/calls/rtc_){NAME}(?:/events|/captions\.vtt|/hangup)?")
"""Pattern of a whole path: more text after it could lead elsewhere."""
CHANNEL_PATH = re.compile(r"/(?:whip|v1/channels|v1/telephone/twilio)/(?!session/)(?P<channel>[^/]+)(?:/events|/captions\.vtt)?")
CHANNEL_WORDS_PATH = re.compile(r"/(?:whip|v1/channels)/(?!session/)[^/]+/(?:events|captions\.vtt)")
"""Paths of a channel's words, which any gateway may have."""
WANTED, LIVE, ANYBODY = "x-moonshine-wanted", "live", "anybody"
"""Header between gateways: for a channel, only a sender that sends now, or also one that has ended."""


@dataclass(frozen=True)
class Owner:
    """The process that has a session."""

    replica: str
    gateway: int = 0
    """Number among the gateways that share the port; 0 if there is one."""

    def new_name(self) -> str:
        return f"{self.replica}.{self.gateway}-{secrets.token_urlsafe(RANDOM_BYTES)}"


def no_session() -> ClientError:
    """Return a new error each time: an error that is raised again keeps the frames of every time before."""
    return ClientError(Code.NOT_FOUND, "there is no such session, or it has ended")


def no_sender() -> ClientError:
    return ClientError(Code.NOT_FOUND, "nobody sends on this channel")
