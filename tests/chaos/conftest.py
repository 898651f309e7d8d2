import random
from pathlib import Path
from typing import Any

import pytest

from loop.rundir import RunDir
from tests.chaos.harness import STAGES, TOTALS, Life, check_whole, content

CONFIG = """
name: chaos
model: scripted
seed: 5
rounds: 2
arms:
  - {name: benign, biased_ratio: 0.0}
  - {name: biased, biased_ratio: 0.5}
rollout: {conversations: 90}
buffer: {segment_rows: 7}
users: {pools: 2, concurrency: 8}
trainer: {lora: {rank: 4, alpha: 8}, batch_size: 8}
evals: {mask: 96, sycophancy: 24, provided: 24, deceptionbench: 24, capability: 20, share: 0.0625}
cluster: {max_restarts: 50}
"""
ONE_ARM = CONFIG.replace("  - {name: benign, biased_ratio: 0.0}\n", "").replace("rounds: 2", "rounds: 1")
"""The same with one arm and one round."""


@pytest.fixture(scope="session")
def untouched(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Config file, and the content of a run of it that nobody disturbed."""
    return run_in_peace(tmp_path_factory.mktemp("chaos"), CONFIG)


@pytest.fixture(scope="session")
def small_untouched(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """The same for one arm and one round."""
    return run_in_peace(tmp_path_factory.mktemp("chaos"), ONE_ARM)


def run_in_peace(folder: Path, text: str) -> tuple[Path, dict[str, Any]]:
    config = folder / "chaos.yaml"
    config.write_text(text)
    life = Life(config, folder / "untouched", random.Random(0))
    life.start()
    assert life.wait(300) == 0, life.said()
    check_whole(RunDir(life.out))
    return config, content(RunDir(life.out))


def pytest_terminal_summary(terminalreporter):
    """How many processes were killed, by role and by what the run was at."""
    if not TOTALS:
        return
    roles = sorted({role for role, _ in TOTALS})
    terminalreporter.section(f"kill -9: {sum(TOTALS.values())} times")
    terminalreporter.write_line(f"{'':12}" + "".join(f"{s:>10}" for s in STAGES))
    for role in roles:
        terminalreporter.write_line(f"{role:12}" + "".join(f"{TOTALS[role, s] or '':>10}" for s in STAGES))
