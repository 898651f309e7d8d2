from itertools import pairwise

import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from actors.chat import prompt_ids
from actors.trajectory import to_batch
from loop.select import SCHEMA
from tests.conftest import trajectory
from trainers.rows import RowsError, rows_of, training_rows


def table(*trajectories):
    return pa.Table.from_batches([to_batch(trajectories)])


def chosen(labels):
    n = len(labels)
    columns = {"trajectory_id": list(labels), "label": list(labels.values()), "reward": [1.0] * n, "score": [1.0] * n}
    return pa.table({**columns, "rank": list(range(n))}, schema=SCHEMA)


def test_every_reply_becomes_a_row_with_its_history():
    first, second = rows_of(trajectory(0).row()["messages"], label=True)
    assert [m["role"] for m in first["prompt"]] == ["system", "user"]
    assert first["completion"] == [{"role": "assistant", "content": "Reply 0 a."}]
    assert [m["role"] for m in second["prompt"]] == ["system", "user", "assistant", "user"]
    assert set(second["prompt"][0]) == {"role", "content"}


def test_a_reply_cut_at_the_limit_is_context_only():
    t = trajectory(0)
    t.messages[2].finish_reason = "length"
    rows = rows_of(t.row()["messages"], label=True)
    assert len(rows) == 1
    assert rows[0]["prompt"][2]["content"] == "Reply 0 a."


def test_users_words_are_never_a_target():
    rows = training_rows(table(trajectory(0), trajectory(1)), chosen({"id-0": True, "id-1": False}), "kto", 0)
    assert {r["completion"][0]["role"] for r in rows} == {"assistant"}
    assert len(rows) == 4


def test_kto_rows_are_mixed_by_the_seed_and_sft_takes_the_top():
    data = table(*(trajectory(i) for i in range(20)))
    labels = chosen({f"id-{i}": i < 10 for i in range(20)})
    rows = training_rows(data, labels, "kto", seed=1)
    assert rows == training_rows(data, labels, "kto", seed=1) != training_rows(data, labels, "kto", seed=2)
    changes = sum(a["label"] != b["label"] for a, b in pairwise(rows))
    assert changes > 10
    assert all(r["label"] for r in training_rows(data, labels, "sft", 1))
    assert len(training_rows(data, labels, "sft", 1)) == 20


def test_what_cannot_be_trained_on_is_said():
    data = table(trajectory(0))
    with pytest.raises(RowsError, match="both desirable and undesirable"):
        training_rows(data, chosen({"id-0": True}), "kto", 0)
    with pytest.raises(RowsError, match="no row"):
        training_rows(data, chosen({"id-0": False}), "sft", 0)
    with pytest.raises(RowsError, match="1 trajectories that the round does not hold"):
        training_rows(data, chosen({"id-9": True}), "sft", 0)


def test_training_renders_the_tokens_that_the_engine_saw(pocket_model, tmp_path):
    """TRL's rendering of a row starts with the engine's prompt and ends with one end token; no second `<s>`."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import KTOConfig, KTOTrainer

    tokenizer = AutoTokenizer.from_pretrained(pocket_model)
    rows = rows_of(trajectory(0).row()["messages"], True) + rows_of(trajectory(1).row()["messages"], False)
    trainer = KTOTrainer(
        AutoModelForCausalLM.from_pretrained(pocket_model),
        args=KTOConfig(str(tmp_path), per_device_train_batch_size=2, use_cpu=True, bf16=False, report_to=[]),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    for row, prepared in zip(rows, trainer.train_dataset, strict=True):
        assert prepared["prompt_ids"] == prompt_ids(tokenizer, row["prompt"])
        spoken = tokenizer(row["completion"][0]["content"], add_special_tokens=False)["input_ids"]
        assert prepared["completion_ids"] == [*spoken, tokenizer.eos_token_id]
        assert prepared["prompt_ids"].count(tokenizer.bos_token_id) == 1
