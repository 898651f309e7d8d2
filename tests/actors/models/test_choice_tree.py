import asyncio

import pytest
import torch

from actors.models.chat import NoLogprobsError
from actors.models.choice_tree import ChoiceTree, choice_tree
from actors.models.template import ChatTemplate
from actors.rating import RATINGS
from tests import tiny_models

QUESTION = [{"role": "user", "content": "How satisfied are you, from 1 to 10? Answer with the number only."}]


def next_probabilities(model, prompt, paths):
    """Probabilities of every token after each of some paths, all of one length."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *path] for path in paths])).logits[:, -1]
    return logits.double().softmax(-1)


def by_tree(tree, model, prompt):
    async def after(path, tokens):
        (found,) = next_probabilities(model, prompt, [path])
        return {t: found[t].item() for t in tokens}

    return asyncio.run(tree.probabilities(after))


def by_hand(tokenizer, model, prompt, choices, spaces):
    """Every reply of three tokens, and which choice it begins with: the longest one whose tokens are its first. What
    goes on towards a longer choice and does not reach it is none."""
    lead = tokenizer.decode(prompt)
    paths = {}
    for choice in choices:
        for text in {space + c for space in spaces for c in (choice, choice.capitalize())}:
            paths[tuple(tokenizer(lead + text, add_special_tokens=False)["input_ids"][len(prompt) :])] = choice
    assert max(map(len, paths)) <= 3
    begun = {p[:n] for p in paths for n in range(len(p))}
    found = dict.fromkeys(choices, 0.0)

    def follow(path, mass):
        for token, share in enumerate(next_probabilities(model, prompt, [path])[0].tolist()):
            reply = (*path, token)
            if reply in begun:
                follow(reply, mass * share)
            elif reply in paths:
                found[paths[reply]] += mass * share
            elif path in paths:  # "7 of 10", or "1" and nothing more
                found[paths[path]] += mass * share

    follow((), 1.0)
    return found


@pytest.mark.parametrize(
    ("kind", "tokens_of_ten", "spaces"),
    [("smollm", 2, [""]), ("qwen", 2, [""]), ("llama3", 1, [""]), ("gpt2", 1, ["", " "]), ("inst", 2, ["", " "])],
)
def test_a_tree_is_exact_against_every_reply_that_could_be_written(kind, tokens_of_ten, spaces):
    tokenizer = tiny_models.tokenizer(kind)
    assert len(tokenizer("10", add_special_tokens=False)["input_ids"]) == tokens_of_ten
    prompt, tree = ChatTemplate(tokenizer).ids(QUESTION), choice_tree(tokenizer, RATINGS)
    for seed in range(3):
        model = tiny_models.model(len(tokenizer), seed)
        found, asked = by_tree(tree, model, prompt)
        assert found == pytest.approx(by_hand(tokenizer, model, prompt, RATINGS, spaces), rel=1e-4, abs=2e-6)
        assert asked == 1 if tokens_of_ten == 1 else 1 <= asked <= tree.depth + 1
    if kind in ("smollm", "qwen"):
        assert tree.depth == 2, "two steps for numbers up to ten"


def test_words_of_several_tokens_that_begin_alike_are_told_apart():
    tokenizer = tiny_models.tokenizer("qwen")
    choices = ["no", "nothing", "unclear"]
    prompt, model = ChatTemplate(tokenizer).ids(QUESTION), tiny_models.model(len(tokenizer))
    tree = choice_tree(tokenizer, choices)
    paths = [p for p in tree._ends if len(p) > 1]
    assert paths
    found, _ = by_tree(tree, model, prompt)
    whole = {}
    for path, choice in tree._ends.items():  # a forward of every whole choice
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *path]])).logits[0].double().log_softmax(-1)
        told = sum(logits[len(prompt) - 1 + n, token].item() for n, token in enumerate(path))
        whole.setdefault(choice, []).append(torch.tensor(told).exp().item())
    assert found["unclear"] == pytest.approx(sum(whole["unclear"]), rel=1e-4, abs=2e-6)
    assert sum(found.values()) <= 1


def test_a_longer_choice_takes_from_the_shorter_one_what_goes_on_to_it():
    tree = ChoiceTree({"1": [(5,)], "10": [(5, 6)], "9": [(7,)]})
    told = {(): {5: 0.9, 7: 0.06}, (5,): {6: 0.98}}

    async def after(path, tokens):
        return {t: told[path][t] for t in tokens}

    found, asked = asyncio.run(tree.probabilities(after))
    assert found == pytest.approx({"1": 0.018, "10": 0.882, "9": 0.06})
    assert (asked, tree.depth, tree.first) == (2, 2, [5, 7])
    told[()] = {5: 1e-7, 7: 0.9}
    found, asked = asyncio.run(tree.probabilities(after))
    assert asked == 1, "what follows something so improbable is not asked for"
    assert found["9"] == 0.9


def test_a_space_counts_only_where_the_template_leaves_it_to_the_reply():
    for kind, spaced in (("smollm", False), ("qwen", False), ("llama3", False), ("gpt2", True), ("inst", True)):
        tokenizer = tiny_models.tokenizer(kind)
        begins = {tokenizer.decode([t])[0] for t in choice_tree(tokenizer, RATINGS).first}
        assert (" " in begins) == spaced, kind


def test_the_pocket_models_figures_are_what_they_were(pocket_model):
    from transformers import AutoTokenizer

    tree = choice_tree(AutoTokenizer.from_pretrained(pocket_model), RATINGS)
    assert tree.depth == 1
    assert len(tree.first) == len(RATINGS)


def test_choices_that_cannot_be_told_apart_or_written_are_refused():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "yes": 1, "no": 2, "?": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", chat_template=template)
    assert choice_tree(tokenizer, ["yes", "no"]).first == [1, 2]
    with pytest.raises(NoLogprobsError, match="the tokenizer of tiny has no tokens for 'maybe'"):
        choice_tree(tokenizer, ["yes", "maybe"], "tiny")
    with pytest.raises(NoLogprobsError, match="'no' and 'no ' are written with the same tokens"):
        choice_tree(tokenizer, ["no ", "no"], "tiny")
