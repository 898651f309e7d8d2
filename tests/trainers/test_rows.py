from collections import Counter
from itertools import pairwise

import pyarrow as pa
import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import KTOConfig, KTOTrainer

from actors.models.template import ChatTemplate
from actors.storage.trajectory import to_batch
from tests.conftest import selected, trajectory
from trainers.algorithms.dpo import pairs
from trainers.rows import Encoded, Encoder, Row, Rows, RowsError, rows_of, training_rows


@pytest.fixture(scope="module")
def tokenizer(pocket_model):
    return AutoTokenizer.from_pretrained(pocket_model)


def table(*trajectories):
    return pa.Table.from_batches([to_batch(trajectories)])


def rows(data, labels, algorithm="kto", seed=0, teach="replies"):
    return training_rows(data, selected(labels), algorithm, teach, seed)


def row(*said, targets=None, tokens=None, label=True):
    """A row of what was said in turns, the user first; its last message is the target unless others are named."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
    return Row(messages, targets or [len(said) - 1], tokens or {}, label, "t")


def test_every_reply_becomes_a_row_with_its_history_and_the_tokens_that_were_said():
    (first, second), cut = rows_of(trajectory(0).row()["messages"], True, "id-0", "replies")
    assert [m["role"] for m in first.messages] == ["system", "user", "assistant"]
    assert first.targets == [2]
    assert first.messages[2] == {"role": "assistant", "content": "Reply 0 a."}
    assert [m["role"] for m in second.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert second.targets == [4]
    assert first.tokens == {2: trajectory(0).messages[2].token_ids}
    assert cut == 0


def test_the_last_reply_or_the_whole_conversation_can_be_taught():
    messages = trajectory(0).row()["messages"]
    assert [r.targets for r in rows_of(messages, True, "id-0", "last")[0]] == [[4]]
    assert [r.targets for r in rows_of(messages, True, "id-0", "conversation")[0]] == [[2, 4]]


def test_a_reply_cut_at_the_limit_can_be_learned_without_an_end(tokenizer):
    t = trajectory(0)
    t.messages[4].finish_reason = "length"
    made, cut = rows_of(t.row()["messages"], True, "id-0", "replies", learn_cut=True)
    assert ([r.targets for r in made], [r.ends for r in made], cut) == ([[2], [4]], [True, False], 0)
    encode = Encoder(tokenizer, ChatTemplate(tokenizer), 512).encode
    assert encode(made[0]).completion[-1] == tokenizer.eos_token_id
    assert encode(made[1]).completion == t.messages[4].token_ids
    assert [len(rows_of(t.row()["messages"], True, "i", "conversation", learn_cut=True)[0][0].targets)] == [1]


@pytest.mark.parametrize(("teach", "targets"), [("replies", [[2]]), ("last", []), ("conversation", [[2]])])
def test_a_reply_cut_at_the_limit_is_counted_and_never_a_target(teach, targets):
    t = trajectory(0)
    t.messages[4].finish_reason = "length"
    made, cut = rows_of(t.row()["messages"], True, "id-0", teach)
    assert [r.targets for r in made] == targets
    assert cut == 1
    assert not made or made[0].messages[-1]["content"] == "Reply 0 a."


def test_a_cut_reply_stays_in_the_context_of_the_next():
    t = trajectory(0)
    t.messages[2].finish_reason = "length"
    (made,), cut = rows_of(t.row()["messages"], True, "id-0", "replies")
    assert cut == 1
    assert made.messages[2]["content"] == "Reply 0 a."


@pytest.mark.parametrize("teach", ["replies", "last", "conversation"])
def test_users_words_are_never_a_target(tokenizer, teach):
    """What is learned of a conversation is what the assistant said in it, word for word, and the end of each reply."""
    t = trajectory(0)
    for n in (2, 4):
        t.messages[n].token_ids = None
    made, _ = rows_of(t.row()["messages"], True, "id-0", teach)
    encoded = Encoder(tokenizer, ChatTemplate(tokenizer), 512)(Rows(made)).rows
    learned = [tokenizer.decode([i for i, m in zip(e.completion, e.mask, strict=True) if m]) for e in encoded]
    said = [t.messages[n].content + "</s>" for n in (2, 4)]
    assert [x.replace(" ", "") for x in learned] == [
        x.replace(" ", "") for x in {"replies": said, "last": said[1:], "conversation": ["".join(said)]}[teach]
    ]


def test_rows_are_mixed_by_the_seed_and_sft_takes_the_desirable():
    data = table(*(trajectory(i) for i in range(20)))
    labels = {f"id-{i}": i < 10 for i in range(20)}
    made = rows(data, labels, seed=1).rows
    assert made == rows(data, labels, seed=1).rows != rows(data, labels, seed=2).rows
    assert sum(a.label != b.label for a, b in pairwise(made)) > 10
    assert all(r.label for r in rows(data, labels, "sft").rows)
    assert len(rows(data, labels, "sft").rows) == 20


def test_what_cannot_be_trained_on_is_said():
    data = table(trajectory(0))
    for algorithm in ("kto", "dpo"):
        with pytest.raises(RowsError, match=f"{algorithm} needs both .* has only desirable ones"):
            rows(data, {"id-0": True}, algorithm)
    with pytest.raises(RowsError, match="no row"):
        rows(data, {"id-0": False}, "sft")
    with pytest.raises(RowsError, match="the selection is empty"):
        rows(data, {}, "sft")
    with pytest.raises(RowsError, match="1 trajectories that the round does not hold"):
        rows(data, {"id-9": True}, "sft")


@pytest.mark.parametrize(("cut", "lost"), [(3, "undesirable"), (1, "desirable")])
def test_an_end_of_which_every_reply_was_cut_is_not_taken_for_one_that_was_not_selected(cut, lost):
    made = [trajectory(i) for i in range(4)]
    labels = {f"id-{i}": i < 1 if cut == 3 else i < 3 for i in range(4)}
    cuts = [t for t, label in zip(made, labels.values(), strict=True) if label == (lost == "desirable")]
    for t in cuts:
        for n in (2, 4):
            t.messages[n].finish_reason = "length"
    told = rf"kto needs both .*none is left of {len(cuts)} {lost} conversations.* cut at its token limit"
    with pytest.raises(RowsError, match=told):
        rows(table(*made), labels)


def test_a_row_is_the_prompt_that_the_engine_saw_and_the_tokens_that_it_said(tokenizer):
    """Also where the text of the reply would be read as other tokens than those that were sampled."""
    encoder = Encoder(tokenizer, ChatTemplate(tokenizer), 512)
    text = "I try walk"
    usual = tokenizer(text, add_special_tokens=False)["input_ids"]
    sampled = [*tokenizer(" " + text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert sampled[:-1] != usual
    made = encoder.encode(row("Hello there.", text, tokens={1: sampled}))
    assert made.prompt == ChatTemplate(tokenizer).ids([{"role": "user", "content": "Hello there."}])
    assert made.completion == sampled
    assert made.mask == [True] * len(sampled)
    assert encoder.encode(row("Hello there.", text)).completion == [*usual, tokenizer.eos_token_id]
    assert encoder.encode(row("Hello there.", text, tokens={1: usual})).completion[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("texts", [("Hello there.", "Good day."), ("Hello.", "A.", "And now?", "That is all.")])
def test_rows_are_rendered_as_trl_renders_messages(tokenizer, pocket_model, tmp_path, texts):
    """One begin token, the end token learned, and the whole equal to the chat template's own rendering."""
    encoder = Encoder(tokenizer, ChatTemplate(tokenizer), 512)
    mine = encoder.encode(row(*texts))
    *before, said = row(*texts).messages
    theirs = KTOTrainer(
        AutoModelForCausalLM.from_pretrained(pocket_model),
        args=KTOConfig(str(tmp_path), per_device_train_batch_size=2, use_cpu=True, bf16=False, report_to=[]),
        train_dataset=Dataset.from_list([{"prompt": before, "completion": [said], "label": i < 1} for i in range(2)]),
        processing_class=tokenizer,
    ).train_dataset[0]
    assert (mine.prompt, mine.completion) == (theirs["prompt_ids"], theirs["completion_ids"])
    assert (mine.prompt + mine.completion).count(tokenizer.bos_token_id) == 1
    assert mine.completion[-1] == tokenizer.eos_token_id


def test_a_whole_conversation_learns_each_reply_once(tokenizer):
    texts = ("Hello.", "A b.", "And now?", "That is all.")
    made = Encoder(tokenizer, ChatTemplate(tokenizer), 512).encode(row(*texts, targets=[1, 3]))
    whole = tokenizer.apply_chat_template(row(*texts).messages, tokenize=False)
    assert made.prompt + made.completion == tokenizer(whole, add_special_tokens=False)["input_ids"]
    learned = tokenizer.decode([t for t, m in zip(made.completion, made.mask, strict=True) if m])
    assert learned.replace(" ", "") == "Ab.</s>Thatisall.</s>"


def test_a_template_that_changes_earlier_replies_is_refused(tokenizer, pocket_model):
    other = AutoTokenizer.from_pretrained(pocket_model)
    other.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'user' or loop.last %}{{ m.content }}{% endif %}"
        "{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    with pytest.raises(RowsError, match=r"trajectory t: the chat template renders reply 3 differently"):
        Encoder(other, ChatTemplate(other), 512).encode(row("Hello.", "A b.", "And now?", "All.", targets=[1, 3]))


def test_rows_that_are_too_long_are_dropped_and_counted_never_cut(tokenizer):
    short, long = row("Hello.", "A."), row("Hello.", "A b. " * 30)
    made = Encoder(tokenizer, ChatTemplate(tokenizer), 20)(Rows([short, long], Counter(other=1)))
    assert len(made.rows) == 1
    assert made.dropped == {"other": 1, "longer than max_length": 1}
    assert made.rows[0].completion[-1] == tokenizer.eos_token_id


def test_the_fingerprint_follows_content_and_order():
    a, b = Encoded([1], [2], [True], True, "t"), Encoded([1], [2], [True], False, "t")
    prints = {Rows(r).fingerprint for r in ([a, b], [b, a], [a], [Encoded([1, 2], [2], [True], True, "t")])}
    assert len(prints) == 4
    assert Rows([a, b]).fingerprint == Rows([Encoded([1], [2], [True], True, "t"), b]).fingerprint


def test_pairs_answer_the_same_prompt():
    def encoded(prompt, said, label):
        return Encoded([prompt], [said], [True], label, f"t{said}")

    made = pairs(Rows([encoded(1, 5, True), encoded(2, 6, False), encoded(1, 7, False), encoded(1, 8, True)]))
    assert [(p.prompt, p.chosen, p.rejected, p.source) for p in made.rows] == [([1], [5], [7], "t5 t7")]
    assert made.dropped == {"without a partner": 2}
    with pytest.raises(RowsError, match="none of the 2 rows has a partner"):
        pairs(Rows([encoded(1, 5, True), encoded(2, 6, False)]))
