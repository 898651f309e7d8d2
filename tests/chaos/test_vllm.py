"""kill -9 under real vLLM and TRL, on the engine, its own process, buffer, pool, trainer, evaluator and the driver.

What was on disk before a kill is in the finished run unchanged.
"""

import random
import time
from collections.abc import Callable

import pytest

from loop.rundir import RunDir
from tests.chaos.harness import TOTALS, Life, check_halfway, check_whole, kept_rows

CONFIG = """
name: chaos-vllm
seed: 3
rounds: 1
arms:
  - {name: biased, biased_ratio: 0.5}
rollout: {conversations: 200}
buffer: {segment_rows: 8}
users: {pools: 2, concurrency: 16}
trainer: {lora: {rank: 4, alpha: 8}, learning_rate: 1.0e-3, batch_size: 8, weight_decay: 0.0, checkpoint_steps: 5}
evals: {mask: 144, sycophancy: 48, provided: 48, deceptionbench: 48, capability: 40, share: 0.0625}
cluster: {max_restarts: 10}
"""


@pytest.mark.slow
def test_what_is_kept_is_kept_and_the_rest_is_done(pocket_model, tmp_path):
    config = tmp_path / "chaos.yaml"
    config.write_text(CONFIG)
    life = Life(config, tmp_path / "out", random.Random(7))
    out = RunDir(life.out)
    segments = lambda n: len(out.trajectories("biased", 0).names()) >= n  # noqa: E731
    checkpoint = lambda: any(life.out.glob("policies/biased/.1.checkpoints/*/candor_complete.json"))  # noqa: E731
    plan: list[tuple[Callable[[], bool], str]] = [
        (lambda: life.stage() == "rollout" and segments(2), "vllm"),
        (lambda: segments(5), "engine"),
        (lambda: segments(8), "user pool"),
        (lambda: segments(11), "buffer"),
        (lambda: segments(14), "driver"),
        (checkpoint, "trainer"),
        (lambda: (life.out / "evals/biased/1/parts").exists(), "evaluator"),
    ]
    kept: dict[str, dict] = {}
    life.start()
    try:
        for due, role in plan:
            deadline = time.monotonic() + 240
            while not (due() and life.kill(role)):
                assert life.running(), life.said()[-3000:]
                assert time.monotonic() < deadline, f"{role} in {life.stage()}: {life.said()[-3000:]}"
                time.sleep(0.01)
            kept |= kept_rows(out)
            if role == "driver":
                life.process.wait(60)
                assert life.left_behind() == []
                check_halfway(out)
                life.start()
        assert life.wait(300) == 0, life.said()
    finally:
        TOTALS.update(life.kills)
        life.running() and life.process.terminate()
    check_whole(out)
    assert life.left_behind() == []
    found = kept_rows(out)
    assert len(kept) > 80
    assert all(found[i] == row for i, row in kept.items())
    assert life.starts == 2
