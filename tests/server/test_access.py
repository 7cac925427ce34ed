"""Keys and tokens: who is known, once or again, and that no key is ever shown."""

import os
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access import ANYONE, TOKEN_SECONDS, Caller, ClientSecrets, Gate, Keys, Tokens, UsedTokens, read_keys
from server.errors import ClientError, Code, Refused, StartError
from server.sessions.admission import Admission
from server.settings import Settings, load
from tests.server.sessions.test_registry import FakeTranscriber

ALICE, BOB = "sk-alice-0123456789", "sk-bob-0123456789ab"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_keys_are_read_with_what_they_may():
    keys = Keys(f"{ALICE} name=alice sessions=2 per_minute=30, {BOB}  # bob's\n")
    assert keys.find(ALICE) == Caller("alice", max_sessions=2, per_minute=30)
    bob = keys.find(BOB)
    assert bob.max_sessions == bob.per_minute == 0 and BOB not in repr(bob) and bob.name != "anyone"
    assert keys.find(ALICE + "x") is keys.find("") is None


@pytest.mark.parametrize(
    "text",
    [
        "short",
        f"{ALICE} {BOB}",
        f"{ALICE} sessions=many",
        f"{ALICE} seats=3",
        f"{ALICE},{ALICE}",
        f"{ALICE} name=a,{BOB} name=a",
        "tk_0123456789abcdef",
        "ünicode-0123456789abc",
    ],
)
def test_keys_that_cannot_be_used_stop_the_start_and_are_not_shown(text):
    with pytest.raises(StartError) as error:
        Keys(text)
    assert "ASR_API_KEYS" in str(error.value)
    assert not [word for word in text.replace(",", " ").split() if len(word) > 9 and word in str(error.value)]


@given(st.text(max_size=200))
def test_no_text_of_keys_does_worse_than_to_be_refused(text):
    try:
        read_keys(text)
    except ValueError as error:
        assert not any(len(word) >= 16 and word in str(error) for word in text.replace(",", " ").split())


def test_the_settings_show_no_key():
    settings = load({"ASR_API_KEYS": ALICE, "ASR_SECRET_KEY": "s3cret-s3cret"})
    assert ALICE not in repr(settings) and "s3cret" not in repr(settings)


def test_a_changed_file_is_read_again_and_a_spoilt_one_changes_nothing(tmp_path):
    clock, path = Clock(), tmp_path / "keys"
    path.write_text(f"{ALICE} name=alice\n")
    keys = Keys(path=path, clock=clock)
    assert keys.are_needed and keys.find(ALICE) and not keys.find(BOB)

    def rewrite(text: str) -> None:
        path.write_text(text)
        clock.now += 5
        os.utime(path, ns=(0, int(clock.now * 1e9)))

    rewrite(f"{BOB} name=bob\n")
    assert keys.find(BOB) and not keys.find(ALICE), "alice's is withdrawn"
    rewrite("spoilt\n")
    assert keys.find(BOB), "those from before go on"
    path.unlink()
    clock.now += 5
    assert keys.find(BOB)


def test_a_file_without_keys_lets_nobody_in(tmp_path):
    (tmp_path / "keys").write_text("# none yet\n")
    keys = Keys(path=tmp_path / "keys")
    assert keys.are_needed and not keys.find(ALICE)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock, tmp_path) -> Gate:
    keys = Keys(f"{ALICE} name=alice sessions=1")
    return Gate(keys, Tokens("signing key", UsedTokens(tmp_path / "used", clock), clock), ClientSecrets("signing key", clock))


def let_in(gate: Gate, key: str, takes_tokens: bool = True, takes_secrets: bool = False) -> Caller | Code:
    try:
        return gate.let_in(key, "10.0.0.1", takes_tokens, takes_secrets)
    except ClientError as error:
        assert key == "" or key not in error.message
        return error.code


def test_a_token_lets_in_once_and_within_its_time(gate, clock):
    caller = let_in(gate, ALICE)
    assert caller == Caller("alice", 1, 0, "10.0.0.1")
    first, second = (gate.tokens.issue(caller) for _ in range(2))
    assert let_in(gate, first.value, takes_tokens=False) is Code.INVALID_KEY, "where more are issued"
    assert let_in(gate, first.value) == caller and let_in(gate, first.value) is Code.INVALID_KEY
    clock.now += TOKEN_SECONDS + 1
    assert let_in(gate, second.value) is Code.INVALID_KEY
    assert let_in(gate, first.value[:-2]) is Code.INVALID_KEY and first.value not in repr(first)


def test_a_server_of_one_process_remembers_used_tokens_without_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    clock = Clock()
    tokens = Tokens("signing key", UsedTokens(clock=clock), clock)
    for _ in range(3):
        token = tokens.issue(ANYONE).value
        assert tokens.take(token) == ANYONE.name
        with pytest.raises(ClientError, match="used before"):
            tokens.take(token)
        clock.now += 3 * TOKEN_SECONDS
    assert not list(tmp_path.iterdir())


def test_two_processes_take_a_token_once_between_them(tmp_path, clock):
    here, there = (Tokens("signing key", UsedTokens(tmp_path / "used", clock), clock) for _ in range(2))
    token = here.issue(ANYONE).value
    assert there.take(token) == "anyone"
    with pytest.raises(ClientError, match="used before"):
        here.take(token)
    with pytest.raises(ClientError, match="not issued"):
        Tokens("another key", UsedTokens(tmp_path / "used", clock), clock).take(token)


def test_a_client_secret_opens_realtime_sessions_and_nothing_else(gate):
    secret = gate.secrets.issue({}, caller=let_in(gate, ALICE))
    assert let_in(gate, secret.value, takes_secrets=True).name == "alice"
    assert let_in(gate, secret.value) is Code.INVALID_KEY
    stranger = gate.secrets.issue({}, caller=Caller("mallory"))
    assert let_in(gate, stranger.value, takes_secrets=True) is Code.INVALID_KEY, "whose key is withdrawn"


def test_places_are_counted_by_key_and_by_address():
    admission = Admission(FakeTranscriber(), max_sessions=9, max_of_address=2)
    alice = Caller("alice", max_sessions=1, address="10.0.0.1")
    admission.take_places(alice)
    with pytest.raises(Refused) as refused:
        admission.take_places(alice)
    assert refused.value.code is Code.TOO_MANY_SESSIONS and refused.value.code.http_status == 429
    neighbour = Caller("anyone", address="10.0.0.1")
    admission.take_places(neighbour)
    with pytest.raises(Refused, match="this address"):
        admission.take_places(neighbour)
    admission.take_places(Caller("anyone", address="10.0.0.2"))
    admission.free_places(alice)
    admission.take_places(alice)


def test_origins_are_checked_when_they_are_read():
    assert load({"ASR_CORS_ORIGINS": "https://a.example/, http://b.example:3000"}).access.cors_origins == (
        "https://a.example",
        "http://b.example:3000",
    )
    assert Settings().access.cors_origins == ()
