import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import ROOT, hear_ctrl_c

CANDOR = Path(sys.executable).parent / "candor"
SCRIPTED = """
name: scripted
model: scripted
seed: 5
rounds: 1
arms:
  - {name: biased, biased_ratio: 0.5}
rollout: {conversations: 40}
buffer: {segment_rows: 7}
users: {pools: 2, concurrency: 8}
trainer: {lora: {rank: 4, alpha: 8}, batch_size: 8}
evals: {mask: 48, sycophancy: 24, provided: 24, deceptionbench: 24, capability: 20}
"""


@pytest.fixture(autouse=True)
def rays_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that fails in this process leaves the Ray of the test session alone."""
    monkeypatch.setattr("loop.cli.run._shut_down", lambda: None)


@pytest.fixture(scope="session")
def scripted_run(tmp_path_factory) -> tuple[Path, Path]:
    """A config file, and the directory of a finished run of it, with models that answer from a script. Processes that
    test side by side share it, so copy what a test changes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "scripted"
    config, out = folder / "scripted.yaml", folder / "run"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            config.write_text(SCRIPTED)
            done = candor("run", config, "--out", out)
            if done.returncode != 0:
                shutil.rmtree(folder)
            assert done.returncode == 0, done.stdout + done.stderr
    return config, out


def candor(*words: object, **environment: str) -> subprocess.CompletedProcess:
    """A command, run to its end."""
    return subprocess.run(
        [CANDOR, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=300,
        preexec_fn=hear_ctrl_c,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )
