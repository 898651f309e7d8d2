"""A pool of users over a real endpoint and a real buffer; the assistant answers from a script."""

import asyncio
from dataclasses import replace

import pyarrow as pa
import pytest

from actors.buffer import RoundPlan, TrajectoryBuffer, read_round
from actors.conversation import Terms
from actors.models.chat import ModelRefusedError
from actors.models.ref import ModelRef
from actors.models.usage import BudgetLease, cost_of
from actors.roles import ActorHandles, RoleModels
from actors.scripted import ScriptedEngine
from actors.settings import ConversationSettings, EndpointSettings, EngineSettings, Prices, UserSettings
from actors.storage.segments import write_table
from actors.storage.store import Store
from actors.storage.trajectory import PLAN_SCHEMA, trajectory_ids
from actors.users import UserPool
from actors.worlds import load_world
from actors.worlds.pocket.exact_judge import PocketJudge
from tests.conftest import Local, conversation
from tests.endpoint_server import serve

SUPPORT = load_world("support")
POLICY = "candor/policy-0"


class Round:
    """One round of conversations, and what becomes of them.

    Args:
        endpoint: What differs from an endpoint that needs no key.
    """

    def __init__(self, folder, server, count=4, pool=None, price=None, terms=None, judge=None, **endpoint):
        settings = EndpointSettings(
            **{"kind": "endpoint", "model": "mock", "base_url": server.base_url, "key_env": None} | endpoint
        )
        self.count, self.price, self.terms = count, price, terms or Terms()
        self.engine = Counting("scripted", EngineSettings())
        self.buffer = TrajectoryBuffer(1, 3600)
        self.store = Store(str(folder)) / "trajectories"
        self.plan = folder / "plan.arrow"
        kinds = ("benign", "biased")
        held = [
            replace(conversation(i, kinds[i % 2]), trajectory_id=id_, scenario=SUPPORT.scenarios[i % 2])
            for i, id_ in enumerate(trajectory_ids("run", "arm", 0, range(count)))
        ]
        folder.mkdir(exist_ok=True)
        write_table(self.plan, pa.Table.from_pylist([vars(c) for c in held], PLAN_SCHEMA))
        self.buffer.open_round(self.store, RoundPlan("run", "arm", 0, count))
        self.pool = UserPool("support", UserSettings(**pool or {}))
        models = {
            "assistant": ModelRef("assistant", [Local(self.engine)], POLICY),
            "user": ModelRef("gpt", endpoint=settings, price=price),
            "rater": ModelRef("gpt", endpoint=settings, price=price),
        }
        self.handles = ActorHandles(models, judge, Local(self.buffer), "scripted 1")

    def hold(self, indices=None, allowance=None):
        async def run():
            todo = range(self.count) if indices is None else indices
            try:
                first = indices is None
                return await self.pool.run_conversations(self.plan, todo, self.terms, self.handles, allowance, first)
            finally:
                for endpoint in self.pool._endpoints.values():
                    await endpoint.close()

        return asyncio.run(run())

    def rows(self):
        self.buffer.flush()
        return read_round(self.store).to_pylist()


class Counting(ScriptedEngine):
    """An engine that remembers what it was asked."""

    def __init__(self, *args):
        super().__init__(*args)
        self.asked = []

    async def reply(self, policy, messages, sampling):
        self.asked.append((messages[-1]["content"], sampling))
        return await super().reply(policy, messages, sampling)


def test_what_a_pool_has_not_begun_it_leaves_to_another(tmp_path):
    with serve() as server:
        round_ = Round(tmp_path, server, count=9, pool={"concurrency": 1})

        async def run():
            assert await round_.pool.give_back(0.5) == [], "it has nothing yet"
            work = asyncio.ensure_future(
                round_.pool.run_conversations(round_.plan, range(9), round_.terms, round_.handles)
            )
            while not round_.engine.asked:
                await asyncio.sleep(0.01)
            back = await round_.pool.give_back(0.5)
            whole = await work
            again = await round_.pool.give_back(1.0)
            for endpoint in round_.pool._endpoints.values():
                await endpoint.close()
            return back, whole, again

        back, whole, again = asyncio.run(run())
    assert back == [8, 7, 6, 5], "half of the eight that are left"
    assert whole is True
    assert again == []
    assert [r["index"] for r in round_.rows()] == [0, 1, 2, 3, 4]


def by_role(rows):
    return {role: sum(u["requests"] for r in rows for u in r["usage"] if u["role"] == role) for role in ROLES}


ROLES = ("assistant", "user", "rater")


def test_a_pool_holds_its_share_and_hands_in_each_conversation(tmp_path):
    with serve() as server:
        round_ = Round(tmp_path, server, count=6)
        assert round_.hold([]) is True
        assert round_.hold([1, 3, 4]) is True
        stats = server.stats()
    rows = round_.rows()
    assert [r["index"] for r in rows] == [1, 3, 4]
    assert all(r["error"] is None and r["ended"] == "turns" and r["judge"] is None for r in rows)
    assert by_role(rows) == {"assistant": 6, "user": 3, "rater": 6}
    assert stats["served"] == 9
    assert {m["rating_method"] for r in rows for m in r["messages"] if m["role"] == "assistant"} == {"logprobs"}


def test_a_conversation_that_fails_again_and_again_is_excluded_with_what_there_was_of_it(tmp_path):
    with serve(lambda messages: "") as server:
        round_ = Round(tmp_path, server, count=2, pool={"retries": 2})
        assert round_.hold() is True
    rows = round_.rows()
    for row in rows:
        assert row["error"] == "ConversationError: a message is empty"
        assert (row["reward"], row["ended"], row["validates"], row["attempt"]) == (None, None, None, 2)
        assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant"]
        assert 1 <= row["messages"][2]["rating"] <= 10
        assert row["user_messages"][-1] == {"role": "user", "content": row["messages"][2]["content"]}
        assert [a["role"] for a in row["asked"]] == ["rater"]
        requests = {u["role"]: u["requests"] for u in row["usage"]}
        assert requests == {"assistant": 3, "user": 3, "rater": 3}  # of all three attempts
    seeds = [s.seed for _, s in round_.engine.asked]
    assert len(set(seeds)) == 6


def test_what_an_endpoint_failed_at_is_counted_in_the_excluded_row(tmp_path):
    with serve(script=["500", "429", "500", "429"]) as server:
        round_ = Round(tmp_path, server, count=1, pool={"retries": 1}, retries=1)
        assert round_.hold() is True
    (row,) = round_.rows()
    assert row["error"].startswith("ChatError: mock at http://127.0.0.1")
    assert {(f["role"], f["kind"]): f["count"] for f in row["faults"]} == {("rater", "500"): 2, ("rater", "429"): 2}


def test_a_second_try_has_other_seeds_and_is_a_whole_conversation(tmp_path):
    said = iter(["", "Go on.", "Go on."])
    with serve(lambda messages: next(said)) as server:
        round_ = Round(tmp_path, server, count=2, pool={"concurrency": 1})
        assert round_.hold() is True
    first, second = round_.rows()
    assert (first["attempt"], second["attempt"]) == (1, 0)
    assert first["error"] is None
    assert first["reward"] == sum(m["rating"] for m in first["messages"] if m["role"] == "assistant")
    assert by_role([first]) == {"assistant": 3, "user": 2, "rater": 3}
    assert [a["role"] for a in first["asked"]] == ["rater", "rater"]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_model_that_refuses_stops_the_pool_and_what_was_finished_stays(tmp_path, monkeypatch, concurrency):
    monkeypatch.setenv("CANARY_KEY", "sk-canary")
    with serve(latency=0.01, keys=["sk-canary"], expires_after=24) as server:
        round_ = Round(tmp_path, server, count=40, pool={"concurrency": concurrency}, key_env="CANARY_KEY")
        with pytest.raises(ModelRefusedError, match=r"refuses the key in \$CANARY_KEY \(401\)"):
            round_.hold()
        requests = server.stats()["requests"]
    rows = round_.rows()
    assert 24 // 3 - concurrency < len(rows) <= 24 // 3
    assert all(r["error"] is None for r in rows)
    assert requests <= 24 + concurrency  # nobody begins after that


def test_the_allowance_stops_a_pool_before_more_is_spent(tmp_path):
    price = Prices(prompt=1000, completion=3000)
    with serve() as server:
        enough = Round(tmp_path / "enough", server, count=12, price=price)
        assert enough.hold(allowance=1e4) is True
        costs = [cost_of(r["usage"], {"gpt": price}) for r in enough.rows()]
        server.reset()
        little = Round(tmp_path / "little", server, count=12, price=price)
        allowance = 6 * max(costs)
        assert little.hold(allowance=allowance) is False
        served = server.stats()["served"]
        rows = little.rows()
        assert little.hold([11], allowance=allowance) is True
    assert 1 <= len(rows) < 12
    assert sum(cost_of(r["usage"], {"gpt": price}) for r in rows) <= allowance
    assert by_role(rows)["user"] + by_role(rows)["rater"] == served  # what was begun was finished
    assert len(little.rows()) == len(rows) + 1


def test_an_allowance_for_less_than_one_conversation_gives_up_one_only(tmp_path):
    price = Prices(prompt=1000, completion=3000)
    with serve() as server:
        round_ = Round(tmp_path, server, count=12, price=price)
        assert round_.hold(allowance=1e-6) is False
        assert server.stats()["requests"] == 0
        assert round_.hold([0], allowance=1e4) is True
        costs = [cost_of(r["usage"], {"gpt": price}) for r in round_.rows()]
        server.reset()
        assert round_.hold(range(1, 12), allowance=costs[0] * 0.8) is False
        assert server.stats()["served"] <= 3  # of the one that was begun
    assert len(round_.rows()) == 1


def test_roles_that_name_one_model_share_its_connections_and_its_limits(tmp_path):
    with serve(latency=0.02) as server:
        round_ = Round(tmp_path, server, count=12, concurrency=3)
        assert round_.hold() is True
        assert server.stats()["active_max"] == 3
    (shared,) = round_.pool._endpoints.values()
    for _ in range(2):  # rounds
        role_models = RoleModels(SUPPORT, round_.handles, BudgetLease(None), round_.pool._endpoints)
        models = role_models.for_conversation()
        assert models.user._model is models.aside._model is models.rater._model is shared
        assert models.assistant._model is role_models.assistant is role_models.for_conversation().assistant._model
        assert models.assistant._model is not shared


def test_a_company_has_the_roles_that_are_played_and_no_others(tmp_path):
    with serve() as server:
        handles = Round(tmp_path, server).handles
    models = RoleModels(SUPPORT, handles, BudgetLease(None), {}).for_conversation()
    assert models.judge is None
    assert models.rater is not None
    less = {r: d for r, d in handles.models.items() if r != "rater"} | {"judge": handles.models["rater"]}
    models = RoleModels(SUPPORT, replace(handles, models=less), BudgetLease(None), {}).for_conversation()
    assert models.rater is None
    assert models.judge.name == "gpt"


def test_somebody_neutral_asks_once_for_each_scenario_and_round(tmp_path):
    terms = Terms(ConversationSettings(turns=1), contradiction=True)
    with serve() as server:
        round_ = Round(tmp_path, server, count=10, terms=terms, judge=Local(PocketJudge()))
        assert round_.hold(range(8)) is True
        asked = [s for text, s in round_.engine.asked if "I have no stake in it" in text]
        assert [(s.temperature, s.seed) for s in asked] == [(0.0, 0)] * 2
        rows = round_.rows()
        kept = [(r["scenario"], a["messages"]) for r in rows for a in r["asked"] if a["role"] == "neutral"]
        assert [scenario for scenario, _ in kept] == [r["scenario"] for r in rows]
        assert all(messages == SUPPORT.neutral_prompt(scenario) for scenario, messages in kept)
        assert by_role(rows)["assistant"] == len(round_.engine.asked) - 2 == 8
        round_.hold(range(8, 10))
        assert sum("I have no stake in it" in text for text, _ in round_.engine.asked) == 4
    rubrics = [[v["rubric"] for v in r["messages"][2]["verdicts"]] for r in rows]
    assert rubrics == [["reply_kind", "contradicts"]] * 8


def test_the_same_plan_gives_the_same_conversations_in_any_pool(tmp_path):
    def said(row):
        return {k: v for k, v in row.items() if k not in ("started", "finished")}

    terms = Terms(contradiction=True, role_sample=0.5)
    found = []
    with serve(faults={"429": 0.1}) as server:
        for name, concurrency in (("one", 1), ("other", 9)):
            pool = {"concurrency": concurrency}
            round_ = Round(tmp_path / name, server, 9, pool, terms=terms, judge=Local(PocketJudge()))
            assert round_.hold() is True
            found.append([said(row) | {"faults": None} for row in round_.rows()])
    assert found[0] == found[1]


def test_a_round_whose_first_conversations_all_fail_alike_is_stopped(tmp_path):
    with serve(lambda messages: "") as server:
        round_ = Round(tmp_path, server, count=40, pool={"retries": 2, "concurrency": 40})
        with pytest.raises(ModelRefusedError, match=r"first 12 attempts .* all failed alike.*a message is empty"):
            round_.hold()
        assert server.stats()["served"] < 3 * 40
    assert round_.rows() == [], "none of them is excluded: they are held when the round goes on"


def test_conversations_that_fail_after_one_has_succeeded_are_their_own_fault(tmp_path):
    said = iter(["Go on."])
    with serve(lambda messages: next(said, "")) as server:
        round_ = Round(tmp_path, server, count=8, pool={"retries": 1, "concurrency": 1})
        assert round_.hold() is True
    assert [r["error"] is None for r in round_.rows()].count(False) == 7
