import asyncio
from collections import Counter

import pytest

from actors.actor import ActorGone
from actors.batching import BatchedServer
from actors.models.chat import Choice, Reply, Sampling
from actors.models.engine_client import SLACK, EngineClient, beginning
from tests.conftest import Local

SAMPLING = Sampling(8)


class Replica(BatchedServer):
    """An engine that notes what it was asked, takes its time, and may die."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds
        self.prompts = []
        self.under_way = self.most = 0
        self.dead = False

    async def reply(self, policy, messages, sampling):
        await self._work(messages)
        return Reply("Hm.", [], [], "stop", 1, 1, policy)

    async def choose(self, policy, messages, choices):
        await self._work(messages)
        return Choice(dict.fromkeys(choices, 0.5), 1)

    async def _work(self, messages):
        if self.dead:
            raise ActorGone("the engine died")
        self.prompts.append(messages)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(self.seconds)
        self.under_way -= 1


def talk(number, turns=1):
    said = [{"role": "system", "content": f"You are person {number}."}, {"role": "user", "content": "Begin."}]
    for turn in range(turns - 1):
        said += [{"role": "assistant", "content": f"Words {turn}."}, {"role": "user", "content": f"Reply {turn}."}]
    return said


def client(replicas, **options):
    return EngineClient([Local(r) for r in replicas], "candor/policy-0", **options)


def share(work):
    """Of requests one after the other, how many each replica served."""
    return [len(r.prompts) for r in work]


async def one_by_one(asked, chats):
    for chat in chats:
        await asked.reply(chat, SAMPLING)


def test_one_side_of_a_conversation_stays_with_one_replica():
    replicas = [Replica() for _ in range(4)]

    async def hold():
        asked = client(replicas)
        for turns in (1, 2, 3):
            await one_by_one(asked, [talk(n, turns) for n in range(20)])
        for n in range(20):  # the rating goes where the user's words went
            await asked.choose([*talk(n, 3), {"role": "user", "content": "How satisfied are you?"}], ["1", "2"])

    asyncio.run(hold())
    where = {}
    for i, replica in enumerate(replicas):
        for prompt in replica.prompts:
            where.setdefault(prompt[0]["content"], set()).add(i)
    assert all(len(at) == 1 for at in where.values())
    assert min(share(replicas)) > 0, "and conversations are spread"


def test_every_process_ranks_replicas_alike_and_a_lost_one_moves_only_its_own():
    places = []
    for dead in (None, None, 2):
        replicas = [Replica() for _ in range(4)]
        if dead is not None:
            replicas[dead].dead = True
        asyncio.run(one_by_one(client(replicas), [talk(n) for n in range(60)]))
        places.append({p[0]["content"]: i for i, r in enumerate(replicas) for p in r.prompts})
    first, again, without = places
    assert first == again
    assert {n: i for n, i in without.items() if first[n] != 2} == {n: i for n, i in first.items() if i != 2}
    assert len(without) == 60
    assert 2 not in without.values()


def test_a_replica_that_dies_is_asked_once_and_the_last_one_that_dies_is_an_error():
    replicas = [Replica(), Replica()]

    async def hold():
        asked = client(replicas)
        await one_by_one(asked, [talk(n) for n in range(10)])
        replicas[0].dead = True
        before = len(replicas[1].prompts)
        await one_by_one(asked, [talk(n, 2) for n in range(10)])
        assert len(replicas[1].prompts) == before + 10
        assert [r.gone for r in asked.replicas] == [True, False]
        replicas[1].dead = True
        with pytest.raises(ActorGone, match="the engine died"):
            await asked.reply(talk(0), SAMPLING)

    asyncio.run(hold())


def test_an_engine_that_comes_up_takes_part_and_moves_only_the_conversations_that_are_its_own():
    """Replica 1 is down at first; then it is there, and replica 0 dies and another engine takes its place."""
    work, late, anew = [Replica() for _ in range(3)], Replica(), Replica()
    handles = [Local(work[0]), None, Local(work[2])]
    places = []

    def where(engines):
        found = {p[0]["content"]: i for i, r in enumerate(engines) for p in r.prompts}
        for r in engines:
            r.prompts.clear()
        return found

    async def hold():
        asked = EngineClient(handles, "candor/policy-0")
        await one_by_one(asked, [talk(n) for n in range(60)])
        places.append(where([work[0], late, work[2]]))
        handles[1] = Local(late)
        asked.admit(handles)
        asked.admit(handles)
        assert len(asked.replicas) == 3
        await one_by_one(asked, [talk(n) for n in range(60)])
        places.append(where([work[0], late, work[2]]))
        work[0].dead = True
        await one_by_one(asked, [talk(n) for n in range(60)])
        where([work[0], late, work[2]])
        handles[0] = Local(anew)
        asked.admit(handles)
        await one_by_one(asked, [talk(n) for n in range(60)])
        places.append(where([anew, late, work[2]]))

    asyncio.run(hold())
    before, with_it, again = places
    assert set(before.values()) == {0, 2}
    assert set(with_it.values()) == {0, 1, 2}
    assert all(with_it[n] in (1, before[n]) for n in before)
    assert again == with_it


def test_only_the_death_of_a_replica_is_passed_on():
    class Refuses(Replica):
        async def _work(self, messages):
            self.prompts.append(messages)
            raise ValueError("no such policy")

    replicas = [Refuses(), Refuses()]
    with pytest.raises(ValueError, match="no such policy"):
        asyncio.run(one_by_one(client(replicas), [talk(0)]))
    assert sorted(share(replicas)) == [0, 1]


def test_a_full_replica_passes_requests_on_until_all_are_full():
    replicas = [Replica(0.2), Replica(0.2)]

    async def hold():
        asked = client(replicas, limit=3)
        await asyncio.gather(*(asked.reply(talk(0), SAMPLING) for _ in range(6)))

    asyncio.run(hold())
    assert [r.most for r in replicas] == [3, 3], "all six begin alike, and one replica takes three"


def test_no_replica_has_much_more_under_way_than_another():
    replicas = [Replica(0.2) for _ in range(4)]

    async def hold():
        asked = client(replicas)
        await asyncio.gather(*(asked.reply(talk(n), SAMPLING) for n in range(200)))

    asyncio.run(hold())
    assert sum(share(replicas)) == 200
    assert max(share(replicas)) <= SLACK * 50 + 1


def test_a_lone_replica_takes_everything():
    replica = Replica()
    asyncio.run(one_by_one(client([replica], limit=1), [talk(n) for n in range(5)]))
    assert share([replica]) == [5]


def test_what_requests_begin_with_ends_with_a_users_first_words():
    assert beginning(talk(1)) == beginning(talk(1, 3))
    assert beginning(talk(1)) != beginning(talk(2))
    alone = [{"role": "user", "content": "Hello."}]
    assert beginning(alone) == beginning([*alone, {"role": "assistant", "content": "Hm."}])
    assert beginning([{"role": "system", "content": "Half a pair: \ud800"}])
    counts = Counter(beginning(talk(n)) for n in range(50))
    assert set(counts.values()) == {1}
