"""Older and other shapes of OpenAI's Realtime API, converted to the present one and back.

Beta is OpenAI's former shape; vLLM and NVIDIA's Riva have shapes of their own. A client is recognised by the first data it sends.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from server.apis.openai.messages import TRANSCRIPTION, ServerEvent, event_of, mapping
from server.apis.terms import usable
from server.errors import ClientError, Code

Message = Mapping[str, Any]
ENDED = "session.ended"
"""Internal event for the end of a session, for shapes that have a last message."""
TOKEN_PROTOCOL, BETA_PROTOCOL, BETA_HEADER = "realtime-token.", "openai-beta.realtime-v1", "realtime=v1"
BETA_FORMATS = {"pcm16": {"type": "audio/pcm"}, "g711_ulaw": {"type": "audio/pcmu"}, "g711_alaw": {"type": "audio/pcma"}}
VLLM_RATE = 16_000


class CurrentShape:
    """The present shape of the API."""

    def read(self, message: Message) -> Message | None:
        """Return a client's message in the present shape; None if it has no meaning there."""
        return message

    def write(self, event: ServerEvent) -> Iterator[ServerEvent]:
        """Yield an event in the shape of this client."""
        if event.op != ENDED:
            yield event


class BetaShape(CurrentShape):
    """OpenAI's beta: `transcription_session.*`, and one `conversation.item.created` for each item."""

    def read(self, message: Message) -> Message | None:
        if message.get("type") != "transcription_session.update":
            return message
        session = message.get("session")
        if not isinstance(session, dict):
            return {"type": "session.update", "session": session}
        return {"type": "session.update", "session": self._session(session), "event_id": message.get("event_id")}

    def _session(self, session: Mapping[str, Any]) -> dict[str, Any]:
        names = {
            "input_audio_transcription": "transcription",
            "turn_detection": "turn_detection",
            "input_audio_noise_reduction": "noise_reduction",
        }
        audio = {names[name]: value for name, value in session.items() if name in names}
        if audio_format := self._format(session):
            audio["format"] = audio_format
        include = {"include": session["include"]} if "include" in session else {}
        return {"type": "transcription", "audio": {"input": audio}} | include

    def _format(self, session: Mapping[str, Any]) -> Mapping[str, Any] | None:
        name = session.get("input_audio_format")
        return None if name is None else BETA_FORMATS.get(str(name), {"type": name})

    def write(self, event: ServerEvent) -> Iterator[ServerEvent]:
        match event.op:
            case "session.created" | "session.updated":
                yield event_of(f"transcription_{event.op}", session=beta_session(event.fields["session"]))
            case "conversation.item.added":
                yield ServerEvent({**event.fields, "type": "conversation.item.created"})
            case "conversation.item.done":
                pass
            case _:
                yield from super().write(event)


def beta_session(session: Mapping[str, Any]) -> dict[str, Any]:
    audio = session["audio"]["input"]
    names = {described["type"]: name for name, described in BETA_FORMATS.items()}
    return {
        "id": session["id"],
        "object": "realtime.transcription_session",
        "modalities": ["audio", "text"],
        "input_audio_format": names[audio["format"]["type"]],
        "input_audio_transcription": audio["transcription"],
        "turn_detection": audio["turn_detection"],
        "input_audio_noise_reduction": audio["noise_reduction"],
        "include": session["include"],
        "expires_at": session["expires_at"],
    }


class RivaShape(BetaShape):
    """NVIDIA's shape: commits after each chunk are ignored, `input_audio_buffer.done` is the end, the last text is the whole."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def read(self, message: Message) -> Message | None:
        match message.get("type"):
            case "input_audio_buffer.commit":
                return None
            case "input_audio_buffer.done":
                return {"type": "finish"}
            case "input_audio_buffer.append" if (
                mapping(message.get("runtime_config") or {}, "runtime_config").get("force_eou") == "true"
            ):
                return {**message, "is_last_of_turn": True}
            case _:
                return super().read(message)

    def _session(self, session: Mapping[str, Any]) -> dict[str, Any]:
        """Take the phrases of word_boosting as keywords. NVIDIA's boosts have another scale and are ignored."""
        asked = mapping(session.get("word_boosting") or {}, "word_boosting")
        lists = asked.get("word_boosting_list") or []
        if not isinstance(lists, list):
            raise ClientError(Code.INVALID_VALUE, "word_boosting_list must be a list", "word_boosting")
        phrases = [mapping(each, "word_boosting").get("phrases") or [] for each in lists]
        keywords = usable(phrase for each in phrases if isinstance(each, list) for phrase in each)
        if not asked.get("enable_word_boosting") or not keywords:
            return super()._session(session)
        transcription = mapping(session.get("input_audio_transcription") or {}, "input_audio_transcription")
        return super()._session({**session, "input_audio_transcription": {**transcription, "keywords": keywords}})

    def _format(self, session: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the format: PCM16 at the rate of input_audio_params, whatever the format is called."""
        parameters = mapping(session.get("input_audio_params") or {}, "input_audio_params")
        return {"type": "audio/pcm", "rate": parameters.get("sample_rate_hz") or VLLM_RATE}

    def write(self, event: ServerEvent) -> Iterator[ServerEvent]:
        match event.op:
            case kind if kind == ENDED:
                text = " ".join(self._texts)
                yield event_of(f"{TRANSCRIPTION}.completed", transcript=text, is_last_result=True, words_info={"words": []})
            case "session.created":
                yield event_of("conversation.created", conversation={"id": event.fields["session"]["id"]})
            case kind if kind == f"{TRANSCRIPTION}.completed":
                self._texts.append(event.fields["transcript"])
                yield ServerEvent({**event.fields, "is_last_result": False})
            case _:
                yield from super().write(event)


class VllmShape(CurrentShape):
    """vLLM's shape: the model beside the type, commits with `final`, and text without items."""

    def read(self, message: Message) -> Message | None:
        match message.get("type"):
            case "session.update" if "session" not in message:
                audio = {"format": {"type": "audio/pcm", "rate": VLLM_RATE}, "turn_detection": None}
                transcription = {"transcription": {"model": message.get("model")}}
                return {"type": "session.update", "session": {"audio": {"input": audio | transcription}}}
            case "input_audio_buffer.commit" if not message.get("final", True):
                return None
            case _:
                return message

    def write(self, event: ServerEvent) -> Iterator[ServerEvent]:
        fields = event.fields
        match event.op:
            case kind if kind == f"{TRANSCRIPTION}.delta":
                yield event_of("transcription.delta", delta=fields["delta"])
            case kind if kind == f"{TRANSCRIPTION}.completed":
                yield event_of("transcription.done", text=fields["transcript"], usage=fields["usage"])
            case "error":
                yield event_of("error", error=fields["error"]["message"], code=fields["error"]["code"])
            case "session.created":
                yield event


def offered(beta: str, subprotocols: Sequence[str]) -> CurrentShape:
    """Return the shape that a handshake requests. beta: the header OpenAI-Beta."""
    if any(protocol.startswith(TOKEN_PROTOCOL) for protocol in subprotocols):
        return RivaShape()
    return BetaShape() if BETA_HEADER in beta or BETA_PROTOCOL in subprotocols else CurrentShape()


def recognised(message: Message, shape: CurrentShape) -> CurrentShape:
    """Return the shape that a client's message shows; the shape so far if it shows none."""
    session = message.get("session")
    match message.get("type"):
        case "transcription_session.update" if isinstance(session, dict) and "input_audio_params" in session:
            return shape if isinstance(shape, RivaShape) else RivaShape()
        case "transcription_session.update":
            return shape if isinstance(shape, BetaShape) else BetaShape()
        case "session.update" if session is None and "model" in message:
            return shape if isinstance(shape, VllmShape) else VllmShape()
        case _:
            return shape
