"""The environment, checked at start."""

import pytest

from server import settings
from server.settings import IceServer, SettingsError


def test_defaults_are_the_documented_ones():
    loaded = settings.load({})
    assert (loaded.host, loaded.port, loaded.webrtc_path) == ("0.0.0.0", 8000, "/webrtc")
    assert (loaded.model_id, loaded.precision) == ("UsefulSensors/moonshine-base", None)
    assert (loaded.max_batch, loaded.max_batch_wait_ms, loaded.max_buffer_seconds, loaded.warmup_seconds) == (32, 10, 120, 1.5)


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("ASR_PORT", "http", "integer"),
        ("ASR_PORT", "70000", "65535"),
        ("MAX_BATCH_SIZE", "0", "greater than or equal to 1"),
        ("MOONSHINE_PRECISION", "fp8", "'fp16', 'bf16', 'fp32' or 'int8'"),
        ("MAX_BATCH_WAIT_MS", "-1", "greater than or equal to 0"),
        ("ASR_ICE_SERVERS", "example.org", "stun:host:port"),
        ("ASR_WEBRTC_PATH", "webrtc", "pattern"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_what_is_accepted(name, value, accepted):
    with pytest.raises(SettingsError) as caught:
        settings.load({name: value})
    line = str(caught.value)
    assert line.startswith(f"{name}={value!r}") and accepted in line and "\n" not in line


def test_settings_are_frozen():
    with pytest.raises(ValueError):
        settings.load({}).port = 1


def test_a_misspelt_variable_is_reported_with_the_nearest_name():
    lines = settings.misspelt({"ASR_PROT": "1", "MAX_BACTH_SIZE": "2", "MOONSHINE_X": "3", "MAX_CONNECTIONS": "4", "PATH": "5"})
    assert len(lines) == 3
    assert "ASR_PROT" in lines[0] and "ASR_PORT" in lines[0]
    assert "MAX_BACTH_SIZE" in lines[1] and "MAX_BATCH_SIZE" in lines[1]
    assert "MOONSHINE_X" in lines[2]


def test_turn_servers_carry_their_credentials():
    servers = settings.load({"ASR_ICE_SERVERS": "stun:a.example:3478, turn:user:p%40ss@b.example:3478"}).ice_servers
    assert servers == (IceServer("stun:a.example:3478"), IceServer("turn:user:p%40ss@b.example:3478"))
    assert (servers[0].url, servers[0].credentials) == ("stun:a.example:3478", (None, None))
    assert (servers[1].url, servers[1].credentials) == ("turn:b.example:3478", ("user", "p@ss"))


def test_every_variable_is_in_the_readme():
    readme = (settings.Path(__file__).parent.parent / "README.md").read_text()
    assert [name for name in settings.variable_names() if f"`{name}`" not in readme] == []
