"""Every message that the server writes in these tests is held against docs/protocol.schema.json."""

import json

import jsonschema
import pytest

from server.apis.native.messages import Message
from tests.conftest import PROJECT

SCHEMA = json.loads((PROJECT / "docs" / "protocol.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA | {"$ref": "#/$defs/ServerMessage"})


@pytest.fixture(autouse=True)
def messages_are_valid(monkeypatch):
    encode = Message.encode

    def encode_valid(message: Message) -> str:
        text = encode(message)
        VALIDATOR.validate(json.loads(text))
        return text

    monkeypatch.setattr(Message, "encode", encode_valid)
