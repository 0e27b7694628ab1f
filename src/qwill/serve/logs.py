"""What the server writes to its log: JSON, one object a line, one line a request (access.py says what it holds).

`time` (UTC), `level` and `event` come first, then the fields that the caller gave as `extra={"fields": {…}}`; a bug
adds its `traceback`. Prompts and replies are in a line only where a field holds them, which `--log-prompts` asks for.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO


class JsonLines(logging.Formatter):
    """A record as one line; whatever a client has sent, it stays one line of ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        for name, value in getattr(record, "fields", {}).items():
            line.setdefault(name, value)
        if record.name != "qwill.serve":
            line["logger"] = record.name
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return json.dumps(line, default=repr)
        except (ValueError, TypeError, RecursionError):
            return json.dumps({name: line[name] for name in ("time", "level", "event")} | {"fields": "can't be shown"})


def log_to(stream: TextIO | None = None, level: int = logging.INFO) -> logging.Handler:
    """Send the server's lines to `stream` (standard error), uvicorn's warnings among them; returns the handler."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    for name, lowest in (("qwill", level), ("uvicorn", logging.WARNING), ("asyncio", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [one for one in logger.handlers if not isinstance(one.formatter, JsonLines)] + [handler]
        logger.setLevel(lowest)
        logger.propagate = False
    return handler
