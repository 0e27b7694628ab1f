"""A server from start to end: engines first, then HTTP; on SIGTERM running streams end before the process does."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from qwill.base.errors import ConfigError
from qwill.serve.app import make_app
from qwill.serve.client import EngineDied
from qwill.serve.service import Service


class _Server(uvicorn.Server):
    """uvicorn, telling the service when it is asked to stop."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self.service, self.ready = service, ready
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # In a signal's handler: the loop does it when it comes round.
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.service.stop)
        super().handle_exit(sig, frame)


def bind(host: str, port: int) -> socket.socket:
    """A listening address. Raises ConfigError when it is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once (TCP_NODELAY) only where a socket names its protocol; else every answer waits 40 ms for an
    # acknowledgement that the client delays.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"can't listen at {host}, port {port} ({error}); choose another with --host and --port"
        ) from error
    listener.set_inheritable(False)
    return listener


async def serve(service: Service, listener: socket.socket, ready: Callable[[str], None]) -> None:
    """Until SIGINT or SIGTERM. `ready` is called with the address once every model answers.

    Raises `ModelError` when a model can't be loaded.
    """
    settings = service.settings
    try:
        await service.start()
    except EngineDied as error:
        await service.close()
        raise ConfigError(f"{error.args[0]} What it said stands above.") from error
    except BaseException:
        await service.close()
        raise
    with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)  # uvicorn has one of its own
    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain) + 5,
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=64 << 10,
        lifespan="on",
    )
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    await _Server(config, service, lambda: ready(address)).serve(sockets=[listener])
