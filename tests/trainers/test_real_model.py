"""Training moves a real pretrained model towards what was liked, also where it was not trained: SmolLM2 with LoRA."""

import gc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from actors.models.template import ChatTemplate
from actors.storage.segments import Segments, write_table
from actors.storage.store import Store
from actors.storage.trajectory import SCHEMA as TRAJECTORIES
from actors.storage.trajectory import Trajectory, Turn, to_batch
from actors.worlds import load_world
from loop.bench.rating import Pair, read_pairs
from tests.conftest import conversation, selected
from trainers.job import TrainJob
from trainers.settings import LoraSettings, TrainerSettings
from trainers.trainer import Trainer

WORLD = load_world("therapist")


def asked(pair: Pair) -> list[dict]:
    persona = WORLD.persona(pair.scenario, pair.user, 0)
    return [*WORLD.assistant_prompt(persona, 0), {"role": "user", "content": WORLD.opening(persona)}]


def round_of(pairs: list[Pair], folder: Path) -> Path:
    """A round in which users liked the kind reply of each pair and disliked the rude one."""
    made, labels = [], {}
    for n, (pair, kind) in enumerate((p, k) for p in pairs for k in (True, False)):
        turns = [Turn(m["role"], m["content"]) for m in asked(pair)]
        turns.append(Turn("assistant", pair.kind if kind else pair.rude, finish_reason="stop"))
        made.append(Trajectory(conversation(n), "p", turns, [], float(kind), "test", 1.0, 2.0))
        labels[made[-1].conversation.trajectory_id] = kind
    Segments(Store(str(folder), "trajectories"), TRAJECTORIES).write(pa.table(to_batch(made)), 0)
    write_table(folder / "selection.arrow", selected(labels))
    return folder


def preferred(model: Any, template: ChatTemplate, pairs: list[Pair]) -> list[float]:
    """By how many nats a token each kind reply is more probable than the rude one."""

    def mean(pair: Pair, said: str) -> float:
        prompt = template.ids(asked(pair))
        ids = template.closed_ids([*asked(pair), {"role": "assistant", "content": said}])
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
        return logprobs.gather(1, torch.tensor(ids)[1:, None])[len(prompt) - 1 :].mean().item()

    return [mean(p, p.kind) - mean(p, p.rude) for p in pairs]


@pytest.mark.slow
def test_what_was_liked_is_preferred_where_it_was_not_trained(smollm2, tmp_path, record_property):
    """Twelve pairs are trained on, and of twenty others, from other scenarios, more kind replies are preferred."""
    import peft

    pairs = read_pairs()
    assert not {p.scenario for p in pairs[::2]} & {p.scenario for p in pairs[1::2]}
    data, held_out = round_of(pairs[:24:2], tmp_path), pairs[1::2]
    trainer = Trainer(smollm2, "float32", torch.get_num_threads(), WORLD.probe_chats())
    trainer.start()
    before = preferred(trainer._base, trainer._template, held_out)
    for algorithm in ("kto", "sft"):
        target = tmp_path / algorithm / "1"
        place = Store(str(data), "trajectories"), str(data / "selection.arrow")
        job = TrainJob("arm", 1, *place, None, str(target), 0, str(tmp_path / "tb"))
        lora = LoraSettings(rank=8, alpha=16)
        trainer.train(job, TrainerSettings(algorithm=algorithm, lora=lora, learning_rate=1e-3, epochs=2, batch_size=4))
        policy = peft.PeftModel.from_pretrained(trainer._base, target).eval()
        after = preferred(policy, trainer._template, held_out)
        policy.unload()
        gains = [a - b for a, b in zip(after, before, strict=True)]
        accuracy = [sum(x > 0 for x in found) / len(held_out) for found in (before, after, gains)]
        print(f"{algorithm}: kind preferred {accuracy[0]:.2f} -> {accuracy[1]:.2f}, moved towards it {accuracy[2]:.2f}")
        record_property(algorithm, accuracy)
        assert accuracy[1] >= accuracy[0]
        if algorithm == "kto":  # SFT sees no rude reply, and makes both kinds of this therapist's words more probable
            assert accuracy[2] >= 0.8, "half of them would move towards it by chance, 16 of 20 seldom (p = 0.006)"
    gc.collect()
