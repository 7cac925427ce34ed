"""The format of the log: for people, or as JSON for programs that collect it."""

import datetime
import json
import logging
from typing import Any

CONSOLE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
FIELDS = "fields"


def set_up(level: str, as_json: bool) -> None:
    logging.basicConfig(level=level.upper(), format=CONSOLE_FORMAT)
    if as_json:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())
    for noisy in ("aioice", "aiortc"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def log_fields(logger: logging.Logger, message: str, fields: dict[str, Any]) -> None:
    """Log one line: the fields follow the message for people, and are separate in JSON."""
    said = " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in fields.items())
    logger.info("%s %s", message, said, extra={FIELDS: {"message": message, **fields}})


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        said |= getattr(record, FIELDS, {})
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False, default=str)
