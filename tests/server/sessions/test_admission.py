"""Clients are told to send longer messages where many sessions are open."""

import pytest

from server.access import ANYONE
from server.sessions.admission import Admission
from tests.server.sessions.test_registry import FakeTranscriber


@pytest.mark.parametrize(("sessions", "frame_ms"), [(0, 20), (32, 20), (33, 60), (64, 60), (65, 100), (1000, 100)])
def test_messages_grow_with_the_sessions_of_a_process(sessions, frame_ms):
    admission = Admission(FakeTranscriber(), 10_000)
    if sessions:
        admission.take_places(ANYONE, sessions)
    assert admission.frame_ms == frame_ms
