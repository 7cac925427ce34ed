"""Each API takes the language of the model that is served, and refuses others by name."""

import pytest

from engine_build import checkpoint
from runtime.languages import LANGUAGES, language_of
from server.apis import languages
from server.apis.deepgram import query as deepgram
from server.apis.openai import transcription as openai
from server.apis.openai.messages import Configuration
from server.apis.wyoming import messages as wyoming
from server.errors import ClientError

SPANISH = "UsefulSensors/moonshine-base-es"


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("UsefulSensors/moonshine-base", "en"),
        ("moonshine-ai/moonshine-tiny-ja", "ja"),
        (SPANISH, "es"),
        ("models/moonshine-base-uk", "uk"),
        ("models/my-own-model", "en"),
        ("models/es", "en"),
    ],
)
def test_the_language_comes_from_the_models_name(model, code):
    assert language_of(model).code == code


@pytest.mark.parametrize("asked", ["es", "es-MX", "es_ES", "Spanish", "spa", "auto", "", "null", "multi", " ES "])
def test_the_models_language_in_any_spelling_or_none_is_taken(asked):
    assert languages.check([asked], SPANISH).code == "es"


@pytest.mark.parametrize("asked", ["en", "en-US", "german", "xx"])
def test_another_language_is_refused_by_name(asked):
    with pytest.raises(ClientError, match="the model understands Spanish, not"):
        languages.check([asked], SPANISH)


def test_every_api_asks_for_the_models_language_only():
    assert openai.parse([("model", "whisper-1"), ("language", "es")], SPANISH).language.name == "spanish"
    assert deepgram.parse([("language", "es")], SPANISH) and deepgram.parse([], SPANISH)
    wyoming.check_transcribe({"language": "es"}, SPANISH)
    assert wyoming.info(SPANISH).data["asr"][0]["models"][0]["languages"] == ["es"]
    configuration = Configuration(SPANISH)
    assert configuration.as_json()["audio"]["input"]["transcription"]["language"] == "es"
    for refuse in (
        lambda: openai.parse([("model", "whisper-1"), ("language", "en")], SPANISH),
        lambda: deepgram.parse([("language", "en-US")], SPANISH),
        lambda: wyoming.check_transcribe({"language": "en"}, SPANISH),
        lambda: configuration.update({"audio": {"input": {"transcription": {"language": "en"}}}}),
    ):
        with pytest.raises(ClientError, match="the model understands Spanish, not 'en'"):
            refuse()


def test_either_name_of_the_organisation_finds_a_model():
    assert checkpoint.names_of("UsefulSensors/moonshine-base") == ["UsefulSensors/moonshine-base", "moonshine-ai/moonshine-base"]
    assert checkpoint.names_of("moonshine-ai/moonshine-tiny") == ["moonshine-ai/moonshine-tiny", "UsefulSensors/moonshine-tiny"]
    assert checkpoint.names_of("somebody/else") == ["somebody/else"]


def test_scripts_that_take_more_tokens_are_known():
    assert {language.code for language in LANGUAGES if language.is_latin} == {"en", "es", "vi"}
