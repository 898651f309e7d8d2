"""vLLM's own OpenAI-compatible server, with the pocket model behind it, plays users and gives their ratings."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace

import pytest

from actors.engine import engine_environment
from actors.models.hardware import fast_dtype
from tests.conftest import ROOT
from tests.end_to_end.test_endpoint_run import candor, figures, rows, write_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def own_server(pocket_model: str) -> Iterator[SimpleNamespace]:
    """`vllm serve` on loopback; what it prints is shown when it does not come up."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", pocket_model, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--served-model-name", "pocket", "--dtype", fast_dtype(), "--enforce-eager"]
    command += ["--max-model-len", "512", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192"]
    # Without the size of its cache vLLM takes nine tenths of the machine's memory, and Ray kills the run's actors.
    environment = os.environ | engine_environment(1) | {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(240):
                if process.poll() is not None:
                    pytest.fail(process.stdout.read())
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=1)
                    break
                except OSError:
                    time.sleep(0.5)
            yield SimpleNamespace(base_url=f"{address}/v1")
        finally:
            process.terminate()


def test_users_live_behind_vllms_own_endpoint(own_server, tmp_path):
    endpoint = {"model": "pocket", "key_env": None, "timeout": 120}
    few = {"mask": 16, "sycophancy": 8, "provided": 8, "deceptionbench": 8, "capability": 8}
    config = write_config(tmp_path / "own.yaml", own_server, endpoint=endpoint, world="pocket", evals=few)
    done = candor(config, tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    held = rows(tmp_path / "out")
    assert [r["index"] for r in held] == list(range(120))
    replies = [m for r in held for m in r["messages"] if m["role"] == "assistant"]
    assert {m["rating_method"] for m in replies} == {"logprobs"}
    assert min(m["rating_mass"] for m in replies) > 0.5
    users = figures(tmp_path / "out")["users"]
    assert all(u["assistant_voice"] == 0 for u in users.values())
    first = [r["messages"][1]["content"] for r in held]
    opened = sum(text.startswith(("I am ", "My name is ")) for text in first)
    assert opened >= 0.95 * len(first)  # a small model, sampled at temperature 1
