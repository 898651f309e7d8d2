"""What is recorded of engines that are plain objects."""

import json
from types import SimpleNamespace

import pytest

from actors.actor import ActorGone
from actors.models.usage import CacheUse
from loop import serving
from loop.config.files import build
from loop.rundir import RunDir
from loop.serving import begin_count, record_engines

OWN = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}


class Engine:
    """An engine that counts, as `actors.engine.Engine` does, or that is gone."""

    def __init__(self, role, own=None, gone=False):
        self.role, self.use = role, CacheUse()
        self.name, self.up = "", True
        self.handle = SimpleNamespace(
            cache_use=SimpleNamespace(remote=self._told), own_sampling=SimpleNamespace(remote=lambda: own or {})
        )
        self.gone = gone

    def _told(self):
        if self.gone:
            raise ActorGone(f"the {self.role} died")
        use, self.use = self.use, CacheUse()
        return use


@pytest.fixture
def arm(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "fetch", lambda work: work)

    def make(engines, users=(), **changes):
        config = build(
            {"name": "r", "world": "support", "model": "scripted", "arms": [{"name": "a", "biased_ratio": 0.5}]}
            | {"evals": {"suites": []}}
            | changes,
            "test",
        )
        shown = []
        base = list(users) or engines
        for group in (engines, users):
            for number, engine in enumerate(group):
                engine.name = f"{engine.role.replace(' ', '-')}-{number}"
        return SimpleNamespace(
            name="a",
            config=config,
            out=RunDir(tmp_path),
            supervisor=SimpleNamespace(
                live_engines=[*engines, *users], live_assistants=engines, base_engines=base, model_engines={}
            ),
            monitor=SimpleNamespace(engines=lambda replicas, r: shown.append((r, replicas))),
            shown=shown,
        )

    return make


def recorded(arm):
    return json.loads(arm.out.engines("a", 0).read_text())


def test_each_replica_tells_how_much_it_had_cached(arm):
    engines = [Engine("assistant"), Engine("assistant")]
    a = arm(engines, users=[Engine("user engine")])
    engines[0].use.add(1000, 0)  # before the round
    begin_count(a)
    for prompt, cached in ((400, 300), (600, 400)):
        engines[0].use.add(prompt, cached)
    engines[1].use.add(200, 0)
    record_engines(a, 0)
    rows = recorded(a)["replicas"]
    assert [(r["engine"], r["requests"], r["prefix_hit_rate"]) for r in rows] == [
        ("assistant-0", 2, 0.7),
        ("assistant-1", 1, 0.0),
    ], "who was not asked has no share"
    assert a.shown == [(0, rows)]
    engines[0].use.add(1000, 900)
    record_engines(a, 0)
    assert recorded(a)["replicas"][0] | {"engine": ""} == {
        **{"engine": "", "requests": 3, "prompt_tokens": 2000, "cached_tokens": 1600, "prefix_hit_rate": 0.8}
    }


def test_an_engine_that_died_meanwhile_is_told_of_once_the_others_are_recorded(arm):
    engines = [Engine("assistant", gone=True), Engine("assistant")]
    a = arm(engines)
    engines[1].use.add(100, 50)
    with pytest.raises(ActorGone, match="the assistant died"):
        record_engines(a, 0)
    assert [r["engine"] for r in recorded(a)["replicas"]] == ["assistant-1"]


def test_what_was_chosen_is_the_settings_over_the_models_own_values(arm):
    settings = {"temperature": None, "top_p": 0.9, "user_temperature": 1.0}
    a = arm([Engine("assistant", OWN)], conversation=settings)
    record_engines(a, 0)
    neutral = {"min_p": 0.0, "repetition_penalty": 1.0}
    assert recorded(a)["sampling"] == {
        "assistant": {"temperature": 0.6, "top_p": 0.9, "top_k": 20} | neutral,
        "user": {"temperature": 1.0, "top_p": 0.95, "top_k": 20} | neutral,
    }


def test_of_an_endpoint_what_it_is_told_is_recorded(arm):
    gpt = {"kind": "endpoint", "model": "gpt", "key_env": None}
    a = arm([Engine("assistant", OWN)], models={"gpt": gpt}, roles={"user": "gpt"}, conversation={"user_min_p": 0.05})
    record_engines(a, 0)
    assert recorded(a)["sampling"]["user"] == {"temperature": 1.0, "min_p": 0.05}
