import asyncio
import multiprocessing
import os
import signal
import subprocess
import time

import psutil
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors import engine as engine_module
from actors.engine import BASE_POLICY, Engine, served_rank
from actors.models.chat import ChatError, Sampling
from actors.models.template import ChatTemplate
from actors.worlds.pocket.language import facts, said, speaker
from trainers.policy import distance

ASK = [said("system", speaker("Sage")), said("user", facts()[0].questions()[0])]


def test_replies_come_with_tokens_and_logprobs(engine):
    reply = ray.get(engine.reply.remote(BASE_POLICY, ASK, Sampling(40, temperature=0, logprobs=True)))
    assert facts()[0].value in reply.text
    assert reply.finish_reason == "stop"
    assert len(reply.token_ids) == len(reply.logprobs)
    assert all(p <= 0 for p in reply.logprobs)
    assert reply.weights == BASE_POLICY


def test_many_seeded_requests_run_at_once(engine):
    replies = ray.get([engine.reply.remote(BASE_POLICY, ASK, Sampling(40, 1.0, seed)) for seed in range(300)])
    assert all(r.text for r in replies)


def test_a_talk_that_goes_on_is_not_computed_again(engine):
    talk = [said("system", speaker("Sage")), said("user", "Hello there. " * 12)]
    ray.get(engine.record.remote(True))
    for messages in (talk, [*talk, said("assistant", "Hello."), said("user", "Please go on.")]):
        ray.get(engine.reply.remote(BASE_POLICY, messages, Sampling(4, 0.0)))
    first, second = ray.get(engine.record.remote(False))
    assert first.cached == 0
    assert second.cached >= 32
    assert len(first.prompt) - 32 <= second.cached < len(first.prompt), "all of it but the block that is not full"


def test_a_reply_that_hits_the_limit_says_so(engine):
    assert ray.get(engine.reply.remote(BASE_POLICY, ASK, Sampling(2))).finish_reason == "length"


def test_choices_are_the_first_token_probabilities(engine, pocket_model):
    numbers = [str(i) for i in range(1, 11)]
    asked = [said("system", speaker("Sage")), said("user", "What is 3 plus 4?")]
    chosen = ray.get(engine.choose.remote(BASE_POLICY, asked, numbers)).probabilities
    model, tokenizer = AutoModelForCausalLM.from_pretrained(pocket_model), AutoTokenizer.from_pretrained(pocket_model)
    with torch.no_grad():
        logits = model(torch.tensor([ChatTemplate(tokenizer).ids(asked)])).logits[0, -1].float().softmax(-1)
    for n in numbers:
        assert chosen[n] == pytest.approx(logits[tokenizer.convert_tokens_to_ids(n)].item(), abs=0.02)
    assert chosen["7"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["smollm", "gpt2"])
def test_an_answer_of_several_tokens_has_the_probability_of_all_of_them(local_ray, tmp_path, kind):
    from actors.engine import engine_environment
    from actors.models.choice_tree import choice_tree
    from actors.rating import RATINGS
    from actors.settings import EngineSettings
    from tests import tiny_models

    folder = tiny_models.write(tmp_path / "model", kind)
    (tmp_path / "model" / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}')
    settings = EngineSettings(dtype="float32")
    environment = {"env_vars": engine_environment(1)}
    engine = ray.remote(Engine).options(num_cpus=1, runtime_env=environment).remote(folder, settings)
    ray.get(engine.start.remote())
    try:
        asked = [said("user", "How satisfied are you, from 1 to 10? Answer with the number only. " * 3)]
        ray.get(engine.check_choices.remote(RATINGS))
        got = ray.get(engine.choose.remote(BASE_POLICY, asked, RATINGS))
        use = ray.get(engine.cache_use.remote())
        assert ray.get(engine.own_sampling.remote()) == {"temperature": 0.6, "top_p": 0.9}
        own = ray.get(engine.reply.remote(BASE_POLICY, asked, Sampling(8, None, 1, own=True)))
        given = ray.get(engine.reply.remote(BASE_POLICY, asked, Sampling(8, 0.6, 1, top_p=0.9)))
        assert own.token_ids == given.token_ids
    finally:
        ray.get(engine.stop.remote())
        ray.kill(engine)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    prompt = ChatTemplate(tokenizer).ids(asked)

    async def after(path, tokens):
        with torch.no_grad():
            told = model(torch.tensor([[*prompt, *path]])).logits[0, -1].double().softmax(-1)
        return {t: told[t].item() for t in tokens}

    expected, steps = asyncio.run(choice_tree(tokenizer, RATINGS).probabilities(after))
    assert got.probabilities == pytest.approx(expected, rel=0.02, abs=1e-6)
    assert (got.prompt_tokens, got.completion_tokens, use.requests) == (len(prompt), steps, steps)
    if steps > 1:
        assert use.cached_tokens >= (steps - 1) * (len(prompt) - 32), "what follows a token finds the prompt cached"


def test_what_cannot_be_served_is_refused(engine):
    with pytest.raises(ChatError, match=r"policy 'candor/policy-9' is not served; served now: candor/policy-0"):
        ray.get(engine.reply.remote("candor/policy-9", ASK, Sampling(4)))
    with pytest.raises(ChatError, match="cannot tell answers apart"):
        ray.get(engine.choose.remote(BASE_POLICY, ASK, ["no", "No"]))
    with pytest.raises(ChatError):
        ray.get(engine.reply.remote(BASE_POLICY, [said("user", "word " * 2000)], Sampling(4)))


@pytest.fixture(scope="module")
def moved(pocket_model, tmp_path_factory):
    """An adapter that changes the model, the merged model, and a probe with the trainer's log-probabilities."""
    import peft

    folder = tmp_path_factory.mktemp("moved")
    tokenizer = AutoTokenizer.from_pretrained(pocket_model)
    base = AutoModelForCausalLM.from_pretrained(pocket_model, dtype=torch.float32)
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    model.save_pretrained(folder / "adapter")
    texts = [
        ChatTemplate(tokenizer).ids([*ASK, said("assistant", reply)]) for reply in ("Hello.", "It is tea, they say.")
    ]

    def logprobs(m):
        out = []
        for ids in texts:
            with torch.no_grad():
                found = m(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            out.append(found.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist())
        return out

    expected = logprobs(model)
    with model.disable_adapter():
        before = logprobs(model)
    model.merge_and_unload().to(torch.bfloat16).save_pretrained(folder / "merged")
    tokenizer.save_pretrained(folder / "merged")
    return folder, texts, before, expected


@pytest.mark.parametrize("how", ["lora", "merged"])
def test_a_published_policy_is_what_the_trainer_computes(engine, moved, pocket_model, how):
    folder, texts, before, expected = moved
    served = ray.get(engine.prompt_logprobs.remote(BASE_POLICY, texts))
    assert distance(served, before) < 0.1
    path = str(folder / ("adapter" if how == "lora" else "merged"))
    ray.get(engine.publish.remote("candor/policy-1", path, how))
    served = ray.get(engine.prompt_logprobs.remote("candor/policy-1", texts))
    assert distance(served, expected) < 0.1 < distance(served, before)
    if how == "merged":
        with pytest.raises(ChatError, match="is not served"):
            ray.get(engine.reply.remote(BASE_POLICY, ASK, Sampling(4)))
        ray.get(engine.publish.remote(BASE_POLICY, pocket_model, "merged"))
    ray.get(engine.retire.remote())
    served = ray.get(engine.prompt_logprobs.remote(BASE_POLICY, texts))
    assert distance(served, before) < 0.1


def test_requests_without_an_adapter_get_none_beside_those_that_have_one(engine, moved):
    """With all of an engine's places for adapters taken, so that none of them is empty by chance."""
    policies = [f"candor/policy-{n}" for n in range(1, engine_module.ADAPTERS + 1)]
    for policy in policies:
        ray.get(engine.publish.remote(policy, str(moved[0] / "adapter"), "lora"))

    def firsts(asked):
        """The log-probabilities of what each policy says first."""
        sampling = Sampling(1, temperature=0, logprobs=True)
        hello = [said("user", "Hello.")]
        return [r.logprobs[0] for r in ray.get([engine.reply.remote(policy, hello, sampling) for policy in asked])]

    [base], own = firsts([BASE_POLICY]), [firsts([p])[0] for p in policies]
    assert all(abs(p - base) > 0.2 for p in own)
    mixed = firsts([BASE_POLICY, *policies] * 8)
    assert mixed == pytest.approx([base, *own] * 8, abs=0.1)
    ray.get(engine.retire.remote())


def test_ranks_that_vllm_serves():
    assert [served_rank(r) for r in (1, 4, 8, 33)] == [1, 8, 8, 64]
    with pytest.raises(ValueError, match="up to 512"):
        served_rank(1000)


@pytest.mark.slow
def test_the_engine_dies_with_its_actor(local_ray, pocket_model):
    from actors.engine import engine_environment
    from actors.settings import EngineSettings

    class Seen(Engine):
        async def children(self):
            return os.getpid(), [c.pid for c in psutil.Process().children(recursive=True)]

    settings = EngineSettings()
    environment = {"env_vars": engine_environment(1)}
    actor = ray.remote(Seen).options(num_cpus=1, runtime_env=environment).remote(pocket_model, settings)
    ray.get(actor.start.remote())
    pid, children = ray.get(actor.children.remote())
    assert children
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(c) for c in children) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [c for c in children if psutil.pid_exists(c)]


def work(seconds):
    end = time.time() + seconds
    while time.time() < end:
        pass


def test_a_core_that_stands_still_while_it_starts_is_killed_and_one_that_works_is_not(monkeypatch):
    monkeypatch.setattr(engine_module, "STUCK_SECONDS", 2)
    monkeypatch.setattr(engine_module, "LOOK_SECONDS", 0.1)
    fork = multiprocessing.get_context("fork")

    def ended(target, seconds):
        child = fork.Process(target=target, args=(seconds,))
        child.start()
        child.join(20)
        return child.exitcode

    with engine_module._watched_core():
        other = subprocess.Popen(["sleep", "6"])
        assert ended(time.sleep, 60) == -signal.SIGKILL
        assert ended(work, 5) == 0
    assert ended(time.sleep, 1) == 0
    assert other.wait(timeout=20) == 0, "what is no core is let alone"
