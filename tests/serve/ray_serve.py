"""A real Ray Serve LLM deployment of a folder, from the example that the documentation names, on the CPU."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import yaml
from before_vllm import until

from qwill.serve.vllm_process import free_port

EXAMPLE = Path(__file__).parents[2] / "examples/serve/ray-serve.yaml"


@contextlib.contextmanager
def ray_serving(program: Path, folder: Path, place: Path, **engine: object) -> Iterator[str]:
    """The URL of a deployment which the command `program` (`serve`) runs; `engine`: more of its engine_kwargs."""
    config = yaml.safe_load(EXAMPLE.read_text())
    config["http_options"]["port"] = port = free_port()
    arguments = config["applications"][0]["args"]
    (model,) = arguments["llm_configs"]
    model["model_loading_config"] = {"model_id": "tiny", "model_source": str(folder)}
    model["accelerator_config"], model["deployment_config"] = {"kind": "cpu"}, {"num_replicas": 1}
    small = {"dtype": "float32", "max_model_len": 1024, "enforce_eager": True, "kv_cache_memory_bytes": 256 << 20}
    model["engine_kwargs"] |= small | engine
    arguments["ingress_deployment_config"] = {"ray_actor_options": {"num_cpus": 0}}  # on two CPUs there is room
    file = place / "ray-serve.yaml"
    file.write_text(yaml.safe_dump(config))
    quiet = {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
    with (place / "ray-serve.log").open("w") as log:
        process = subprocess.Popen(
            [program, "run", str(file)], env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
        )
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: process.poll() is not None or lists(url))
            assert process.poll() is None, (place / "ray-serve.log").read_text()[-3000:]
            yield url
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(120)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def lists(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/models", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
