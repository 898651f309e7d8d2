"""Runs whose assistant is asked by others all the time, through OpenAI's own client: they end as they would have."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import openai
import pytest

from loop.rundir import RunDir, read_json
from tests.chaos.harness import check_whole, content
from tests.conftest import ROOT, hear_ctrl_c
from tests.loop.conftest import SCRIPTED

CANDOR = Path(sys.executable).parent / "candor"
HELLO = [{"role": "user", "content": "Is one drink tonight harmless, or does it bring the old habit back at once?"}]


class Visitors:
    """People who ask as long as a run goes on.

    Attributes:
        answered: Replies, by policy.
        away: How often one was told to come back.
        faults: What else went wrong.
    """

    def __init__(self, address: str, many: int = 3) -> None:
        self.answered: dict[str, int] = {}
        self.away = 0
        self.faults: list[str] = []
        self._client = openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(bool(n % 2),), daemon=True) for n in range(many)]
        for thread in self._threads:
            thread.start()

    def _ask(self, stream: bool) -> None:
        while not self._over.is_set():
            try:
                for model in self._client.models.list():
                    asked = {"model": model.id, "messages": HELLO, "max_tokens": 40, "stream": stream}
                    said = self._client.chat.completions.create(**asked)
                    if stream:
                        list(said)
                    self.answered[model.id] = self.answered.get(model.id, 0) + 1
            except openai.APIConnectionError:
                time.sleep(0.1)
            except openai.NotFoundError:  # another policy has taken its place since it was listed
                pass
            except openai.APIError as error:
                if getattr(error, "status_code", 503) != 503:
                    self.faults.append(str(error))
                self.away += 1
                time.sleep(0.02)
            time.sleep(0.01)

    def leave(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=60)


def visited(config: Path, out: Path, *words: str) -> Visitors:
    """A run with visitors from its first engine to its end."""
    command = [CANDOR, "run", config, "--set", "assistant.serve.port=0", *words, "--out", out]
    process = subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c
    )
    watchdog = threading.Timer(900, process.kill)
    watchdog.start()
    visitors = None
    for line in process.stdout:
        if line.startswith("assistant:") and visitors is None:
            visitors = Visitors(line.split()[1])
    assert process.wait() == 0
    watchdog.cancel()
    assert visitors is not None, "the run says where its assistant is"
    visitors.leave()
    return visitors


def scripted(folder: Path) -> Path:
    folder.mkdir()
    (folder / "scripted.yaml").write_text(SCRIPTED)
    return folder / "scripted.yaml"


@pytest.mark.slow
def test_a_run_with_visitors_is_the_run_without_them_bit_for_bit(tmp_path):
    config = scripted(tmp_path / "alone")
    done = subprocess.run([CANDOR, "run", config, "--out", tmp_path / "alone/run"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    visitors = visited(config, tmp_path / "visited/run")
    assert visitors.faults == []
    assert sum(visitors.answered.values()) > 10
    alone, out = RunDir(tmp_path / "alone/run"), RunDir(tmp_path / "visited/run")
    check_whole(out)
    assert content(out) == content(alone)
    assert read_json(out.engines("biased", 0)) == read_json(alone.engines("biased", 0))


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["merged", "lora"])
def test_visitors_leave_vllm_and_the_figures_of_its_requests_alone(tmp_path, sync):
    few = ["rounds=2", "rollout.conversations=24", "evals.mask=24", "evals.sycophancy=12", "evals.provided=12"]
    few += [
        "evals.deceptionbench=12",
        "evals.capability=12",
        f"assistant.sync={sync}",
        "arms=[{name: biased, biased_ratio: 0.5}]",
    ]
    words = [word for key in few for word in ("--set", key)]
    visitors = visited(ROOT / "configs/pocket.yaml", tmp_path / "run", *words)
    out = RunDir(tmp_path / "run")
    assert visitors.faults == []
    assert {f"candor/policy-{r}" for r in range(3)} <= visitors.answered.keys()
    check_whole(out)
    log = [json.loads(line) for line in out.log.read_text().splitlines()]
    assert [line["text"] for line in log if line["kind"] in ("died", "stalled", "error")] == []
    replicas = read_json(out.engines("biased", 0))["replicas"]
    asked = sum(row["requests"] for row in replicas)
    assert asked < 24 * 2 * 12, "visits are not counted among the requests of the run"
