"""A client's address is taken from a process that proves itself, and from nobody else."""

import asyncio

import pytest

from server.http.handed_on import HandedOn

CALLER, CLIENT = ("127.0.0.1", 4711), ("192.0.2.9", 0)
ADDRESS = (b"x-forwarded-for", b"192.0.2.9")


def client_of(headers: list[tuple[bytes, bytes]], kind: str = "http") -> tuple[str, int] | None:
    """The client that the application sees."""
    seen = []

    async def application(scope, receive, send) -> None:
        seen.append(scope.get("client"))

    asyncio.run(HandedOn(application, "right")({"type": kind, "client": CALLER, "headers": headers}, None, None))
    return seen[0]


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_proven_process_says_whose_request_it_is(kind):
    assert client_of([ADDRESS, (b"x-asr-handed-on", b"right")], kind) == CLIENT


@pytest.mark.parametrize("proof", [[], [(b"x-asr-handed-on", b"wrong")], [(b"x-asr-handed-on", b"")]])
def test_whoever_proves_nothing_is_counted_by_its_own_address(proof):
    assert client_of([ADDRESS, *proof]) == CALLER


@pytest.mark.parametrize(("kind", "scheme"), [("http", "https"), ("websocket", "wss")])
def test_a_proven_process_says_what_its_own_proxy_was_asked_by(kind, scheme):
    seen = []

    async def application(scope, receive, send) -> None:
        seen.append(scope["scheme"])

    headers = [ADDRESS, (b"x-asr-handed-on", b"right"), (b"x-forwarded-proto", b"https")]
    asyncio.run(HandedOn(application, "right")({"type": kind, "scheme": "any", "headers": headers}, None, None))
    assert seen == [scheme]


def test_a_proof_alone_changes_nothing():
    assert client_of([(b"x-asr-handed-on", b"right")]) == CALLER
