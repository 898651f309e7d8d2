"""Which actors a run has and what each is made of, without making one."""

from dataclasses import dataclass

import pytest

from actors.engine import Engine
from actors.scripted import SCRIPTED, ScriptedEngine
from loop.cluster import needs
from loop.config.files import build
from loop.roster import Roster
from trainers.scripted import ScriptedTrainer
from trainers.trainer import Trainer

ARMS = {"name": "test", "arms": [{"name": "a", "biased_ratio": 0.5}]}


@dataclass
class Made:
    """What an actor would be made of."""

    kind: type
    environment: dict | None
    args: tuple = ()

    def remote(self, *args, **named):
        self.args = args
        return self


@pytest.fixture
def roster(monkeypatch):
    def make(path="/models/llama", engine=Engine, number=0, **changes):
        monkeypatch.setattr("loop.roster._actor", lambda kind, settings, env=None, **options: Made(kind, env))
        monkeypatch.setattr("loop.roster.cores", lambda: 8)
        return Roster(build(ARMS | changes, "test"), path, engine, number)

    return make


def roles(roster):
    return [a.role for a in roster.actors]


def test_merged_weights_need_an_engine_for_users_beside_the_assistants(roster):
    r = roster(assistant={"replicas": 2}, users={"pools": 2})
    assert roles(r) == [
        *("assistant", "assistant", "user engine", "trainer", "judge", "buffer", "user pool", "user pool", "evaluator"),
    ]
    assistant, users = r.assistants[1].make(), r.base_engines[0].make()
    assert (assistant.kind, assistant.args[0], assistant.args[2]) == (Engine, "/models/llama", None)
    assert assistant.environment["OMP_NUM_THREADS"] == users.environment["OMP_NUM_THREADS"] == "2"


def test_how_many_replicas_a_run_waits_for(roster):
    """With a smallest number for these; without one for all at the start, and for one later."""

    def waited_for(r):
        return sorted(m.name for m in r.lacking([m for m in r.actors if not m.up]) if m in r.engines)

    r = roster(assistant={"replicas": {"min": 2, "max": 4}}, users={"engine": {"replicas": 2}})
    assert waited_for(r) == ["assistant-0", "assistant-1", "user-engine-0", "user-engine-1"]
    r.assistants[3].up = True
    assert len(waited_for(r)) == 3
    assert not r.spare(r.assistants[0])
    r.assistants[2].up = r.base_engines[1].up = True
    assert waited_for(r) == ["user-engine-0"]
    r.complete = True
    assert waited_for(r) == []
    assert r.spare(r.assistants[0])
    assert not r.spare(r.assistants[2])
    assert {m.role for m in r.lacking([m for m in r.actors if not m.up])} == set(roles(r)) - {
        "assistant",
        "user engine",
    }
    shared = roster(
        assistant={"replicas": 2, "min_replicas": 1, "gpus": 1, "sync": "lora"}, trainer={"gpus": 1, "share_gpu": True}
    )
    shared.complete = shared.assistants[0].up = True
    assert waited_for(shared) == ["assistant-1"], "one that starts while the trainer is at work takes its memory"


def test_sets_of_actors_side_by_side_have_names_of_their_own_and_share_the_cores_and_endpoints(roster):
    gpt = {"kind": "endpoint", "model": "gpt", "concurrency": 8}
    arms = [{"name": "a", "biased_ratio": 0.5}, {"name": "b", "biased_ratio": 0.1}]
    changes = {"arms": arms, "assistant": {"replicas": 2}, "users": {"pools": 2}, "models": {"gpt": gpt}}
    one, two = (roster(**changes, roles={"rater": "gpt"}, cluster={"arms_at_once": n}, number=n - 1) for n in (1, 2))
    assert [m.name for m in one.assistants] == ["assistant-0", "assistant-1"]
    assert [m.name for m in two.assistants] == ["assistant-2", "assistant-3"]
    assert (two.buffer.name, two.pools[1].name) == ("buffer-1", "user-pool-3")
    threads = [int(r.assistants[0].make().environment["OMP_NUM_THREADS"]) for r in (one, two)]
    assert threads == [8 // 3, 8 // 6]
    for r in (one, two):
        r.engine, r.buffer.handle, r.judge.handle = "scripted", None, None
    shares = [r.handles(r.config, "candor/policy-1").models["rater"].share for r in (one, two)]
    assert shares == [1 / 2, 1 / 4]


def test_how_many_pools_a_run_waits_for(roster):
    def waited_for(r):
        return sorted(m.name for m in r.lacking([m for m in r.actors if not m.up]) if m in r.pools)

    whole = roster(users={"pools": 2})
    whole.complete = whole.pools[1].up = True
    assert waited_for(whole) == ["user-pool-0"]
    assert not whole.spare(whole.pools[0])
    r = roster(users={"pools": {"min": 2, "max": 4}})
    assert waited_for(r) == ["user-pool-0", "user-pool-1"]
    for m in r.pools[1:]:
        m.up = True
    assert waited_for(r) == []
    assert r.spare(r.pools[1])
    r.engine, r.buffer.handle, r.judge.handle = "scripted", None, None
    assert r.handles(r.config, "candor/policy-1").models["assistant"].share == pytest.approx(1 / 3), "of those up"


def test_a_replica_that_is_down_keeps_its_number(roster):
    r = roster(assistant={"replicas": 3}, users={"engine": {"replicas": 1}})
    r.engine, r.buffer.handle, r.judge.handle = "scripted", None, None
    for n in (0, 2):
        r.assistants[n].up, r.assistants[n].handle, r.assistants[n].serves = True, f"engine {n}", "a/1"
    r.assistants[1].up, r.assistants[1].handle = True, "an engine without the policy"
    assert r.handles(r.config, "candor/policy-1").models["assistant"].engines == ["engine 0", None, "engine 2"]


def test_pools_share_what_replicas_can_work_on(roster):
    r = roster(assistant={"max_num_seqs": 64}, users={"pools": 4, "engine": {"max_num_seqs": 32}})
    r.engine, r.buffer.handle, r.judge.handle = "scripted", None, None
    models = r.handles(r.config, "candor/policy-1").models
    assert (models["assistant"].capacity, models["assistant"].share) == (64, 0.25)
    assert (models["user"].capacity, models["user"].policy) == (32, "candor/policy-0")


def test_a_generator_speaks_for_the_assistant_in_conversations_and_is_not_evaluated(roster):
    other = {"models": {"other": {"kind": "engine", "model": "pocket-control", "replicas": 2}}}
    r = roster(**other, roles={"generator": "other"})
    r.engine, r.buffer.handle, r.judge.handle = "scripted", None, None
    for engine in r.model_engines["other"]:
        engine.handle, engine.up = "up", True
    models = r.handles(r.config, "candor/policy-1").models
    assert roles(r).count("other engine") == 2
    assert (models["assistant"].model, len(models["assistant"].engines)) == ("other", 2)
    assert "generator" not in models
    assert r.access(r.config, "candor/policy-1", None).model.policy == "candor/policy-1"


def test_adapters_are_served_beside_the_base_with_room_for_the_largest(roster):
    r = roster(assistant={"sync": "lora"}, trainer={"start": "stack", "lora": {"rank": 4}}, rounds=3)
    assert "user engine" not in roles(r)
    assert r.base_engines is r.assistants
    assert r.assistants[0].make().args[2] == 12


def test_further_models_get_engines_of_their_own(roster):
    judge = {"kind": "engine", "model": "/models/judge", "replicas": 2}
    models = {"models": {"j": judge}, "roles": {"judge": "j"}}
    r = roster(world="support", model="/models/llama", evals={"suites": []}, **models)
    assert roles(r).count("j engine") == 2
    assert "judge" not in roles(r), "a text world has no judge of its own"


def test_a_scripted_run_has_scripted_engines_and_trainer(roster):
    class Another(Engine):
        pass

    scripted, real = roster(SCRIPTED, Another, model=SCRIPTED), roster("/models/llama", Another)
    assert (scripted.assistants[0].make().kind, scripted.trainer.make().kind) == (ScriptedEngine, ScriptedTrainer)
    assert (real.assistants[0].make().kind, real.trainer.make().kind) == (Another, Trainer)


def test_arms_on_data_need_no_pools_and_no_engine_for_users(roster):
    arm = {"name": "a", "set": {"data.base.source": "world", "data.base.part": "talk/normal"}}
    r = roster(arms=[arm], trainer={"algorithm": "sft"}, rounds=1)
    assert roles(r) == ["assistant", "trainer", "judge", "buffer", "evaluator"]
    assert {n.role for n in needs(r.config) if n.count} == set(roles(r))


def test_a_model_that_judges_answers_has_its_engine_where_nobody_talks(roster):
    arm = {"name": "a", "set": {"data.base.source": "world", "data.base.part": "talk/normal"}}
    model = {"models": {"j": {"kind": "engine", "model": "/models/judge"}}, "evals": {"judges": ["j"]}}
    assert roles(roster(arms=[arm], trainer={"algorithm": "sft"}, rounds=1, **model)).count("j engine") == 1
