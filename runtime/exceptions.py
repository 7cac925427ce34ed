"""Errors of the engine and the code around it, by cause."""


class EngineError(Exception):
    """The base class of all errors that this package raises on purpose."""


class EngineDirectoryError(EngineError):
    """An engine directory is missing, damaged, or was built for something else; the message ends with the command to run."""


class DeviceError(EngineError):
    """The device that an engine needs is missing, or is not the one it was built for; the message is one line."""


class EngineFailed(EngineError):
    """A step of the engine raised an error; the requests in it fail with this, other requests continue."""


class EngineStopped(EngineError):
    """The engine loop has ended, by request or because the engine is lost; nothing more will be answered."""


class RequestCancelled(EngineError):
    """The request was withdrawn before it was done: its stream was closed, or a final replaced it."""
