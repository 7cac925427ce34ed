"""The error of a stream."""

from moonshine_client.transcripts import Message


class StreamError(Exception):
    """The server refused the stream or ended it with an error, or the connection was lost."""

    def __init__(self, reason: str, message: str, details: Message | None = None, retry_after: float | None = None):
        """retry_after: seconds until another attempt, if the server sent them."""
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.details = details or {}
        """The whole error message."""
        self.retry_after = retry_after

    @property
    def text(self) -> str:
        """Text that was stable at the error, and may be kept."""
        return str(self.details.get("text", ""))
