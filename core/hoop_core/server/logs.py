"""Logs: one JSON object a line on standard error, of Hoop and of the libraries alike.

What is bound to a request (its id, then session and statement) is in every line that comes of it. Of an
error only its class and the places that it went through are written, never its text: that may quote anything.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import warnings
from collections.abc import Mapping, MutableMapping
from types import TracebackType
from typing import Any, TextIO

import structlog

from hoop_core.errors import where

_log = structlog.get_logger("hoop.uncaught")
_LONGEST = 2000
_OWN = ("hoop_core.", "hoop.")


def log_to(stream: TextIO, *, level: int = logging.INFO) -> None:
    """Send everything that is logged to `stream`; of libraries only warnings and worse."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _faults_by_place,
        _bounded,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(default=_named)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=_named),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    # the default text of a warning quotes the line of code that it came from
    warnings.formatwarning = lambda message, category, *_args, **_more: (
        f"{category.__name__}: {message}"
    )
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


def watch_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Faults that nobody waited for are logged in the same form."""
    loop.set_exception_handler(_uncaught_in_loop)


def _faults_by_place(
    _logger: Any, _name: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Tracebacks and their texts out, places in."""
    given = event.pop("exc_info", None)
    if given is True:
        given = sys.exc_info()
    error = given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["where"] = where(error)
    event.pop("stack_info", None)
    return event


def _bounded(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and len(value) > _LONGEST:
            event[key] = value[:_LONGEST] + "..."
    return event


def _named(value: Any) -> str:
    """What JSON does not know is told by its class: its own words may hold anything."""
    return f"<{type(value).__qualname__}>"


def _uncaught(
    _kind: type[BaseException], error: BaseException, _trace: TracebackType | None
) -> None:
    _log.critical("an error ended the process", where=where(error))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        name = args.thread.name if args.thread else None
        _log.error("an error ended a thread", thread=name, where=where(args.exc_value))


def _unraisable(args: Any) -> None:
    if args.exc_value is not None:
        _log.error("an error that nobody could be told", where=where(args.exc_value))


def _uncaught_in_loop(_loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    error = context.get("exception")
    _log.error(
        "an error that nobody waited for",
        why=str(context.get("message", ""))[:200],
        where=where(error) if isinstance(error, BaseException) else None,
    )
