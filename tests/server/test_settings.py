"""The environment, checked at start."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server import settings
from server.errors import SettingsError
from server.settings import AdvertisedAddress, IceServer, Settings

DOCUMENTED = {
    "ASR_HOST": "::",
    "ASR_PORT": 8000,
    "ASR_WEBRTC_PATH": "/webrtc",
    "ASR_WORKERS": 1,
    "ASR_ICE_SERVERS": (),
    "ASR_SHUTDOWN_TIMEOUT_SECONDS": 20,
    "MOONSHINE_MODEL_ID": "UsefulSensors/moonshine-base",
    "MOONSHINE_PRECISION": None,
    "ASR_TARGET": "auto",
    "ASR_ENGINE_DIR": None,
    "ASR_ENGINES": 0,
    "ASR_TURN_MODEL": "auto",
    "ASR_CPU_THREADS": 0,
    "MODEL_WARMUP_SECONDS": 1.5,
    "MAX_BATCH_SIZE": 32,
    "MAX_BATCH_WAIT_MS": 10,
    "ASR_INTERIM_INTERVAL_MS": 500,
    "ASR_MAX_SEGMENT_SECONDS": 12,
    "ASR_STABLE_AGREEMENT": 2,
    "MAX_BUFFER_SECONDS": 120,
    "ASR_INIT_TIMEOUT_SECONDS": 10,
    "ASR_IDLE_TIMEOUT_SECONDS": 60,
    "ASR_MAX_SESSION_SECONDS": 0,
    "ASR_CLOSE_TIMEOUT_SECONDS": 30,
    "ASR_MAX_SESSIONS": 0,
    "ASR_LOG_LEVEL": "info",
    "ASR_LOG_FORMAT": "console",
    "ASR_LOG_TEXT": False,
    "ASR_WYOMING_PORT": 0,
    "ASR_WYOMING_HOST": "127.0.0.1",
    "ASR_WYOMING_ZEROCONF": False,
    "ASR_VOSK": False,
    "ASR_VOSK_PORT": 0,
    "ASR_VOSK_HOST": "127.0.0.1",
    "ASR_AUDIOSOCKET_PORT": 0,
    "ASR_AUDIOSOCKET_HOST": "127.0.0.1",
    "ASR_MAX_UPLOAD_MB": 100,
    "ASR_MAX_FILE_SECONDS": 14_400,
    "ASR_API_KEYS": "",
    "ASR_API_KEYS_FILE": None,
    "ASR_CORS_ORIGINS": (),
    "ASR_ALLOWED_HOSTS": (),
    "ASR_MAX_SESSIONS_PER_ADDRESS": 0,
    "ASR_REQUESTS_PER_MINUTE": 0,
    "ASR_TRUSTED_PROXIES": (),
    "ASR_MAX_CONNECTING_PER_ADDRESS": 256,
    "ASR_CONNECT_TIMEOUT_SECONDS": 3,
    "ASR_DRAIN_SECONDS": 0,
    "ASR_ADMIN_PORT": 0,
    "ASR_ADMIN_HOST": "127.0.0.1",
    "ASR_REPLICA": "",
    "ASR_UDP_PORTS": None,
    "ASR_ICE_ADDRESSES": (),
    "ASR_ADVERTISED_ADDRESS": None,
    "ASR_FILE_STRETCHES": 8,
    "ASR_SECRET_KEY": "",
    "ASR_USAGE_KEY": "",
    "ASR_TLS_CERT": None,
    "ASR_TLS_KEY": None,
}
"""Names and defaults are part of the product: one that changes breaks somebody's deployment."""


def test_names_and_defaults_are_the_promised_ones():
    assert {name: field.default for _, name, field in settings.variables()} == DOCUMENTED
    assert settings.load({}) == Settings()


def test_only_the_environment_that_is_given_is_read(monkeypatch):
    monkeypatch.setenv("ASR_PORT", "9999")
    assert settings.load({}).listen.port == 8000
    assert settings.load({"ASR_PORT": "7000"}).listen.port == 7000


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("ASR_PORT", "http", "whole number"),
        ("ASR_PORT", "70000", "65535"),
        ("MAX_BATCH_SIZE", "0", "greater than or equal to 1"),
        ("MOONSHINE_PRECISION", "fp8", "'fp16', 'bf16', 'fp32' or 'int8'"),
        ("MAX_BATCH_WAIT_MS", "-1", "greater than or equal to 0"),
        ("ASR_WEBRTC_PATH", "webrtc", "pattern"),
        ("ASR_WEBRTC_PATH", "/{offer", "pattern"),
        ("ASR_WEBRTC_PATH", "/a b", "pattern"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_what_is_accepted(name, value, accepted):
    with pytest.raises(SettingsError) as caught:
        settings.load({name: value})
    line = str(caught.value)
    assert line.startswith(f"{name}={value!r}") and accepted in line and "\n" not in line


def test_settings_are_frozen():
    with pytest.raises(ValueError):
        settings.load({}).listen.port = 1


def test_a_misspelt_variable_is_reported_with_the_nearest_name():
    lines = settings.misspelt({"ASR_PROT": "1", "MAX_BACTH_SIZE": "2", "MOONSHINE_X": "3", "MAX_CONNECTIONS": "4", "PATH": "5"})
    assert len(lines) == 3
    assert "ASR_PROT" in lines[0] and "ASR_PORT" in lines[0]
    assert "MAX_BACTH_SIZE" in lines[1] and "MAX_BATCH_SIZE" in lines[1]
    assert "MOONSHINE_X" in lines[2]


def test_turn_servers_carry_their_credentials():
    servers = settings.load({"ASR_ICE_SERVERS": "stun:a.example:3478, turn:user:p%40ss@b.example:3478"}).ice.servers
    assert servers == (
        IceServer(url="stun:a.example:3478"),
        IceServer(url="turn:b.example:3478", username="user", password="p@ss"),
    )


@pytest.mark.parametrize(
    "value",
    [
        "example.org",
        "stun:foo:bar",
        "turn:user:secret@host:port",
        "turn:user:secret",
        "stun:host:0",
        "http://u:secret@h",
        "turn:user:secret@host:70000",
        "stun:[::1]:3478",
    ],
)
def test_an_ice_server_that_cannot_be_used_is_named_without_its_password(value):
    with pytest.raises(SettingsError) as caught:
        settings.load({"ASR_ICE_SERVERS": value})
    line = str(caught.value)
    assert line.startswith("ASR_ICE_SERVERS cannot be used: expected stun:host:port") and "\n" not in line
    assert "secret" not in line and "secret" not in repr(caught.value.__context__)


def test_no_password_is_in_what_is_printed():
    loaded = settings.load({"ASR_ICE_SERVERS": "turn:user:secret@host:3478"})
    assert "secret" not in repr(loaded) and "secret" not in str(loaded)


def test_where_packets_find_the_server():
    ice = settings.load(
        {"ASR_UDP_PORTS": "50000-50009", "ASR_ICE_ADDRESSES": "10.0.0.5, fd00::5", "ASR_ADVERTISED_ADDRESS": "+2001:DB8::0"}
    ).ice
    assert ice.ports == range(50_000, 50_010) and list(map(str, ice.addresses)) == ["10.0.0.5", "fd00::5"]
    assert ice.advertised_address == AdvertisedAddress(ip="2001:db8::", is_beside=True)
    assert settings.load({}).ice.ports is None


@pytest.mark.parametrize(
    ("variable", "values"),
    {
        "ASR_UDP_PORTS": ["50000", "50009-50000", "1000-2000", "50000-70000", "50000-50000", "a-b"],
        "ASR_ICE_ADDRESSES": ["eth0", "10.0.0.300"],
        "ASR_ADVERTISED_ADDRESS": ["example.org", "+", "10.0.0.5:80"],
        "ASR_REPLICA": ["a b", "a/b", "x" * 65, "naïve"],
    }.items(),
)
def test_what_cannot_be_an_address_a_range_or_a_name_is_refused(variable, values):
    for value in values:
        with pytest.raises(SettingsError, match=f"{variable}={re.escape(repr(value))} cannot be used"):
            settings.load({variable: value})


def test_every_setting_whose_value_is_not_shown_is_a_secret():
    hidden = {name for _, name, field in settings.variables() if not field.repr}
    assert hidden <= set(settings.SECRET_VARIABLES)


PART_OF_EVERY_SECRET = "7f3e9c"  # in no name of a variable and in no message


@given(st.dictionaries(st.sampled_from(settings.variable_names()), st.text(max_size=20), max_size=4))
def test_whatever_the_environment_holds_is_taken_or_refused_in_one_line(environment):
    for name in environment.keys() & set(settings.SECRET_VARIABLES):
        environment[name] += PART_OF_EVERY_SECRET
    try:
        settings.load(environment)
    except SettingsError as refused:
        assert "\n" not in str(refused) and "cannot be used" in str(refused)
        assert PART_OF_EVERY_SECRET not in str(refused)
