from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainers.algorithms.kto import Padded, mismatched
from trainers.batches import chunks, even, of_rank, sizes
from trainers.flops import ModelSize, peak_flops, step_flops
from trainers.rows import Encoded, Pair, Rows
from trainers.settings import TrainerSettings


def encoded(length, learned=2, label=True):
    return Encoded([1] * (length - learned), [2] * learned, [True] * learned, label, "t")


def settings(**given):
    return TrainerSettings(**given)


@given(
    n=st.integers(0, 60),
    ranks=st.integers(1, 4),
    micro=st.integers(1, 3),
    batches=st.integers(1, 3),
    algorithm=st.sampled_from(["sft", "kto"]),
)
def test_every_rank_takes_as_many_rows_and_each_row_is_taken_once(n, ranks, micro, batches, algorithm):
    if algorithm == "kto" and ranks * micro < 2:
        return
    s = settings(ranks=ranks, micro_batch=micro, batch_size=ranks * micro * batches, algorithm=algorithm)
    rows = even(Rows([encoded(5) for _ in range(n)]), s)
    kept = len(rows.rows)
    assert kept + rows.dropped.total() == n
    assert n - kept < max(ranks, 2)
    takes = [of_rank(kept, s, rank) for rank in range(ranks)]
    assert sorted(chain(*chain(*takes))) == list(range(kept))
    assert len({tuple(map(len, t)) for t in takes}) == 1
    for together in zip(*takes, strict=True):
        assert set(chain(*together)) in [set(c) for c in chunks(kept, s.together)]
    if algorithm == "kto" and kept:
        assert all(len(c) > 1 for c in chunks(kept, s.together))
        assert all(i != other for i, other in enumerate(mismatched(kept, s.together)))
        assert sorted(mismatched(kept, s.together)) == list(range(kept))


def test_kto_pairs_rows_that_are_taken_together():
    assert mismatched(5, 3) == [2, 0, 1, 4, 3]


def test_a_step_is_measured_in_rows_tokens_and_padding():
    s = settings(ranks=2, batch_size=4, micro_batch=1)
    first, last = sizes([encoded(n) for n in (10, 6, 4, 4, 8, 8)], s)
    assert (first.rows, first.tokens, first.padded, first.learned) == (4, 24, 24, 8)  # one row a pass has no padding
    assert (last.rows, last.tokens, last.squares) == (2, 16, 128)
    (together,) = sizes([encoded(n) for n in (10, 6, 4, 4)], settings(batch_size=4))
    assert (together.tokens, together.padded) == (24, 40)
    (pair,) = sizes([Pair([1] * 3, [2] * 2, [2] * 5, "t")], settings(algorithm="dpo", batch_size=4))
    assert (pair.rows, pair.tokens, pair.padded, pair.learned) == (1, 13, 16, 7)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch_size": 6, "ranks": 4}, "batch_size 6 must be a multiple of ranks 4 times micro_batch 1"),
        ({"batch_size": 6, "micro_batch": 4}, "multiple of ranks 1 times micro_batch 4"),
        ({"batch_size": 4, "micro_batch": 1}, "at least 2 with algorithm kto"),
        ({"batch_size": 1}, "at least 2 with algorithm kto"),
        ({"algorithm": "dpo", "rows": "conversation"}, "does not go with algorithm dpo"),
        ({"algorithm": "dpo", "replay": {"path": "x.json"}}, "replay does not go with algorithm dpo"),
        ({"desirable_weight": "balanced", "undesirable_weight": "balanced"}, "only one of"),
        ({"start": "stack", "lora": None}, "start stack puts a new adapter"),
        ({"sharding": "fsdp2"}, "at least 2 ranks, each with a GPU"),
        ({"ranks": 2, "gpus": 0.5}, "gpus 0.5 with ranks 2: two ranks could share a GPU"),
    ],
)
def test_settings_that_do_not_go_together_are_said(given, said):
    with pytest.raises(ValidationError, match=said):
        settings(**given)


def test_a_prompt_with_anothers_reply_is_cut_at_the_limit_and_rows_are_not():
    one = {"prompt_ids": [1] * 6, "completion_ids": [2] * 2, "completion_mask": [1] * 2, "label": True}
    made = Padded(0, 8)([one | {"KL_completion_ids": [3] * 6, "KL_completion_mask": [1] * 6}])
    assert made["input_ids"].tolist() == [[1] * 6 + [2] * 2]
    assert made["KL_input_ids"].tolist() == [[1] * 6 + [3] * 2]
    assert made["KL_completion_mask"].tolist() == [[0] * 6 + [1] * 2]


def test_flops_are_those_of_the_usual_count(pocket_model):
    """6 a weight and token for full training, 4 under an adapter; each further pass of KTO adds 2."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(pocket_model, dtype=torch.float32)
    whole = ModelSize.of(model)
    embedding = model.get_input_embeddings().weight.numel()
    norms = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    assert whole.body + whole.head == sum(p.numel() for p in model.parameters()) - embedding - norms
    (size,) = sizes([encoded(10, 10)], settings(algorithm="sft", batch_size=1))
    scores = 2 * whole.attention * 100
    weights = 2 * (whole.body + whole.head) * 10
    assert step_flops(size, whole, frozen=False) == 3 * (weights + scores)
    assert step_flops(size, whole, frozen=True) == 2 * (weights + scores)
    (kto,) = sizes([encoded(10, 10), encoded(10, 10)], settings(batch_size=2))
    assert step_flops(kto, whole, frozen=True) == 5 * 2 * (weights + scores)


def test_peaks_are_of_the_device():
    assert peak_flops("NVIDIA H200") == peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    for unknown in ("", "NVIDIA L40", "NVIDIA A10G", "NVIDIA RTX A4000", "NVIDIA RTX A1000"):
        assert peak_flops(unknown) is None
