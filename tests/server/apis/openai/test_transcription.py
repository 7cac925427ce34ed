"""Any form is a request or a client's error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.apis.openai import transcription as openai
from server.apis.openai.transcription import ResponseFormat
from server.errors import ClientError, Code, Refused, ServerError

MODEL = "UsefulSensors/moonshine-base"
NAMES = ("model", "language", "languages[]", "temperature", "response_format", "stream", "prompt", "keywords[]", "foo")
VALUES = st.sampled_from(["whisper-1", "en", "0.5", "json", "srt", "true", "word", "['word']", "nan", ""]) | st.text()


@given(st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=12))
def test_any_form_is_a_request_or_a_client_error(fields):
    try:
        asked = openai.parse(fields, MODEL)
    except ClientError as error:
        body = openai.error_body(error)["error"]
        assert body["type"] == "invalid_request_error" and body["message"] and body["code"]
    else:
        assert asked.format in ResponseFormat and asked.granularities <= {"word", "segment"}


@pytest.mark.parametrize("name", ["timestamp_granularities[]", "timestamp_granularities"])
@pytest.mark.parametrize("value", ["word", "['word']", '["word"]'])
def test_granularities_are_read_in_every_way_that_clients_write_them(name, value):
    fields = [("model", "whisper-1"), ("response_format", "verbose_json"), (name, value)]
    assert openai.parse(fields, MODEL).granularities == {"word"}


def test_a_plain_format_is_not_streamed_and_needs_no_granularity():
    asked = openai.parse(
        [("model", "default"), ("response_format", "text"), ("stream", "true"), ("timestamp_granularities[]", "x")], MODEL
    )
    assert not asked.is_streamed and not asked.options.words


def test_keywords_and_the_names_of_a_prompt_are_terms_however_a_list_is_sent():
    keywords = [("keywords[]", "Acme, Inc."), ("keywords", '["Moonshine", "x"]')]
    asked = [("model", "default"), ("prompt", "They met Darcy."), *keywords]
    assert [term.text for term in openai.parse(asked, MODEL).options.terms] == ["Acme, Inc.", "Moonshine", "x", "Darcy"]
    with pytest.raises(ClientError, match="200 terms at most") as refused:
        openai.parse([("model", "default"), *[("keywords[]", f"term {number}") for number in range(201)]], MODEL)
    assert refused.value.parameter == "keywords"


@pytest.mark.parametrize("language", ["en", "en-US", "English", "EN", ""])
def test_english_is_taken_however_it_is_called(language):
    openai.parse([("model", "default"), ("language", language)], MODEL)


def test_errors_are_of_the_type_that_sdks_expect():
    assert openai.error_body(Refused(Code.SERVER_FULL, "full"))["error"]["type"] == "server_error"
    assert openai.error_body(ServerError(Code.ENGINE_FAILED, "lost"))["error"]["type"] == "server_error"
    assert openai.error_body(ClientError(Code.INVALID_FILE, "no", "file"))["error"] == {
        "message": "no",
        "type": "invalid_request_error",
        "param": "file",
        "code": "invalid_file",
    }
