"""How every command ends: an exit code, and one sentence for what the user can mend. Imports next to nothing."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # `typing` would take longer to import than the rest
if TYPE_CHECKING:
    from collections.abc import Callable

STOPPED = 130  # what a shell reports for a program that Ctrl-C ended

# Top-level modules of optional installs, and the extra that brings each.
EXTRAS = {
    "ftfy": "curate", "py3langid": "curate", "prompt_toolkit": "chat", "fastapi": "serve", "uvicorn": "serve",
    "prometheus_client": "serve", "sqlalchemy": "serve", "alembic": "serve",
    "httpx": "serve", "llguidance": "serve",
}  # fmt: skip


def exit_code(command: Callable[[], int]) -> int:
    """Run a command: 0, 2 for what the user can mend, 130 when stopped. A bug raises."""
    from qwill.base.errors import QwillError

    try:
        return command()
    except QwillError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("\nqwill: stopped; run the same command again to go on.", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        # The reader of our output (`| head`) has had enough; without this Python complains when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
            return _fail(f"{error.name} is not installed; run `pip install 'qwill[{EXTRAS[error.name]}]'`.")
        from qwill.cli.trouble import machine_trouble

        if sentence := machine_trouble(error):
            return _fail(sentence)
        raise


def _fail(sentence: str) -> int:
    print(f"qwill: {sentence}", file=sys.stderr)
    return 2
