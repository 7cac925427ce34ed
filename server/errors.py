"""Errors of the server. Those that a client receives have a code for programs, a sentence for people and an HTTP status."""

import enum


class Code(enum.StrEnum):
    """Error codes that clients receive."""

    BAD_JSON = "bad_json"
    BAD_OFFER = "bad_offer"
    UNRELIABLE_CHANNEL = "unreliable_channel"
    BODY_TOO_LARGE = "body_too_large"
    TOO_SLOW = "too_slow"
    BAD_MESSAGE = "bad_message"
    UNKNOWN_OP = "unknown_op"
    NOT_INITIALISED = "not_initialised"
    ALREADY_INITIALISED = "already_initialised"
    UNSUPPORTED_SAMPLE_RATE = "unsupported_sample_rate"
    BAD_AUDIO = "bad_audio"
    MESSAGE_TOO_LARGE = "message_too_large"
    CLOSING = "closing"
    CONNECT_TIMEOUT = "connect_timeout"
    INIT_TIMEOUT = "init_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    BUFFER_OVERFLOW = "buffer_overflow"
    SLOW_READER = "slow_reader"
    TEXT_TOO_LONG = "text_too_long"
    ENGINE_FAILED = "engine_failed"
    INTERNAL_ERROR = "internal_error"
    INVALID_FILE = "invalid_file"
    AUDIO_TOO_SHORT = "audio_too_short"
    AUDIO_TOO_LONG = "audio_too_long"
    FILE_TOO_LARGE = "file_too_large"
    MISSING_PARAMETER = "missing_required_parameter"
    INVALID_VALUE = "invalid_value"
    UNSUPPORTED_VALUE = "unsupported_value"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    UNSUPPORTED_LANGUAGE = "unsupported_language"
    COMMIT_EMPTY = "input_audio_buffer_commit_empty"
    MODEL_NOT_FOUND = "model_not_found"
    NOT_FOUND = "not_found"
    INVALID_KEY = "invalid_api_key"
    FORBIDDEN_ORIGIN = "forbidden_origin"
    FORBIDDEN_HOST = "forbidden_host"
    RATE_LIMITED = "rate_limit_exceeded"
    TOO_MANY_SESSIONS = "too_many_sessions"
    SESSION_TOO_LONG = "session_too_long"
    WARMING_UP = "warming_up"
    SERVER_FULL = "server_full"
    SHUTTING_DOWN = "shutting_down"
    STORAGE_FULL = "storage_full"

    @property
    def http_status(self) -> int:
        return HTTP_STATUS.get(self, 400)


HTTP_STATUS = {
    Code.TOO_SLOW: 408,
    Code.CONNECT_TIMEOUT: 408,
    Code.INIT_TIMEOUT: 408,
    Code.IDLE_TIMEOUT: 408,
    Code.INVALID_KEY: 401,
    Code.FORBIDDEN_ORIGIN: 403,
    Code.FORBIDDEN_HOST: 403,
    Code.MODEL_NOT_FOUND: 404,
    Code.NOT_FOUND: 404,
    Code.BODY_TOO_LARGE: 413,
    Code.FILE_TOO_LARGE: 413,
    Code.AUDIO_TOO_LONG: 413,
    Code.MESSAGE_TOO_LARGE: 413,
    Code.RATE_LIMITED: 429,
    Code.TOO_MANY_SESSIONS: 429,
    Code.INTERNAL_ERROR: 500,
    Code.ENGINE_FAILED: 503,
    Code.WARMING_UP: 503,
    Code.SERVER_FULL: 503,
    Code.SHUTTING_DOWN: 503,
    Code.STORAGE_FULL: 507,
}
"""HTTP status by error code. All other codes are mistakes of the client and have status 400."""


class ServerError(Exception):
    """An error that is sent to a client: a code and a sentence."""

    def __init__(self, code: Code, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


class ClientError(ServerError):
    """An error that the client caused."""

    def __init__(self, code: Code, message: str, parameter: str | None = None):
        """parameter: the field that is wrong."""
        super().__init__(code, message)
        self.parameter = parameter


class Refused(ServerError):
    """No session is available now; a later attempt may succeed."""


class StartError(Exception):
    """The server cannot start. The message is one line with the reason."""


class SettingsError(StartError):
    """A variable has a value that cannot be used. The message is one line with the variable, the value and the accepted
    values."""
