"""Structured logs on standard error: a line per event, JSON for machines or text for people."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

FORMATS: Final = ("text", "json")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the event's fields, a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.format`."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Time, level, logger, message, and the event's fields as `name=value`."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's name
        """As `logging.Formatter.formatMessage`."""
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        return super().formatMessage(record) + fields


def event(**fields: object) -> dict[str, dict[str, object]]:
    """The fields of an event, for a logger's `extra`: `_log.info("pushed", extra=event(tag=t))`."""
    return {"fields": fields}


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return {name: value if isinstance(value, int) else str(value) for name, value in fields.items()}


def configure(level: str, form: str) -> None:
    """Send the logs of this process to standard error. For programs; the library never calls it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter()
        if form == "json"
        else TextFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
