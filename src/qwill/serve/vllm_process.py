"""The vLLM process: how it is started on a model's folder, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qwill.base.errors import ModelError
from qwill.base.files import read_json

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of adapters, as vLLM takes them
PATIENCE = 15.0  # seconds to end by itself


@dataclass(frozen=True)
class VllmOptions:
    """`url`: of a vLLM (or Ray Serve) that runs already, None to start one. `more`: further options of `vllm serve`.
    `adapters`: {name: folder}; `adapter_loading`: others may come later. `dtype`: None leaves it to vLLM."""

    folder: Path
    name: str
    url: str | None = None
    dtype: str | None = None
    more: tuple[str, ...] = ()
    adapters: Mapping[str, str] = field(default_factory=dict)
    adapter_loading: bool = False


def command(options: VllmOptions, port: int) -> list[str]:
    """Raises `ModelError` when vLLM is not installed."""
    beside = Path(sys.executable).with_name("vllm")
    program = str(beside) if beside.exists() else shutil.which("vllm")
    if program is None:
        raise ModelError(
            "--engine vllm needs the command `vllm`, which is not there: install it (`pip install vllm`), or name a "
            "vLLM that runs already with --engine-url."
        )
    given = [
        program, "serve", str(options.folder), "--served-model-name", options.name, "--host", "127.0.0.1",
        "--port", str(port), "--scheduling-policy", "priority", "--enable-prompt-tokens-details",
        "--structured-outputs-config", '{"backend": "guidance"}', "--generation-config", "vllm",
    ]  # fmt: skip
    if options.dtype is not None:
        given += ["--dtype", options.dtype]
    if options.adapters or options.adapter_loading:
        given += ["--enable-lora", "--max-loras", "4", "--max-lora-rank", str(_rank(options.adapters))]
    return [*given, *options.more]


def _rank(adapters: Mapping[str, str]) -> int:
    """Room for the adapters that are known, and for usual ones that may come."""
    ranks = [int(read_json(Path(folder) / "adapter_config.json").get("r", 64)) for folder in adapters.values()]
    most = max([*ranks, 64])
    return next((rank for rank in RANKS if rank >= most), RANKS[-1])


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


async def start(options: VllmOptions, port: int, key: str) -> asyncio.subprocess.Process:
    """vLLM, saying what it says on standard error. `key`: only who knows it is answered. Raises `ModelError`."""
    environment = {**os.environ, "VLLM_API_KEY": key, "HF_HUB_OFFLINE": "1"}
    if options.adapters or options.adapter_loading:
        environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    try:
        # Ctrl-C reaches a whole group: streams end first, and then vLLM.
        return await asyncio.create_subprocess_exec(
            *command(options, port), env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=2,
            start_new_session=True, preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )  # fmt: skip
    except OSError as error:
        raise ModelError(f"vLLM can't be started ({error}); is `vllm --version` answered?") from error


def _end_with_parent() -> None:
    """In the child: SIGTERM when the server's process ends, however it does (prctl's PR_SET_PDEATHSIG is 1)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


async def end(process: asyncio.subprocess.Process) -> None:
    """The process and all that it started."""
    if process.returncode is None:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), PATIENCE)
    _signal(process, signal.SIGKILL)
    await process.wait()


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
