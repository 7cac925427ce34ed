"""The WebRTC transport's own configuration."""

import pytest
from aiortc.rtcicetransport import connection_kwargs

from server.settings import IceServer
from server.transports.webrtc import ice_server


@pytest.mark.parametrize(
    ("text", "address", "credentials"),
    [
        ("stun:a.example", ("a.example", 3478), None),
        ("stun:a.example:19302", ("a.example", 19302), None),
        ("turn:user:p%40ss@b.example:3479", ("b.example", 3479), ("user", "p@ss")),
        ("turns:user:pass@b.example:5349", ("b.example", 5349), ("user", "pass")),
    ],
)
def test_a_server_that_the_settings_take_is_one_that_aiortc_takes(text, address, credentials):
    """stun:foo:bar used to start, and then every offer was called the client's mistake."""
    arguments = connection_kwargs([ice_server(IceServer.parse(text))])
    assert arguments.get("stun_server", arguments.get("turn_server")) == address
    if credentials:
        assert (arguments["turn_username"], arguments["turn_password"]) == credentials
