"""What algorithms say about themselves, which trainer, batches and config go by."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from trainers.algorithms import ALGORITHMS
from trainers.algorithms.kto import weights
from trainers.rows import Encoded, Rows, RowsError
from trainers.settings import TrainerSettings


def rows(*labels):
    return [Encoded([1], [2], [True], label, "t") for label in labels]


def test_the_config_names_every_algorithm_and_no_other():
    assert list(ALGORITHMS) == ["kto", "sft", "dpo"]
    for name in ALGORITHMS:
        assert TrainerSettings(algorithm=name).algorithm == name
    with pytest.raises(ValueError, match="known: kto, sft, dpo;"):
        TrainerSettings(algorithm="ppo")


def test_naming_algorithms_imports_no_heavy_library():
    code = "import sys, trainers.algorithms; print([m for m in ('torch', 'trl', 'datasets') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_only_kto_needs_both_kinds_of_rows_at_the_end():
    one_kind = Rows(rows(True, True))
    ALGORITHMS["sft"].check(one_kind)
    with pytest.raises(RowsError, match="kto needs desirable and undesirable rows"):
        ALGORITHMS["kto"].check(one_kind)
    ALGORITHMS["kto"].check(Rows(rows(True, False)))


def test_a_balanced_weight_makes_up_for_how_many_there_are():
    few_good = rows(True, False, False, False)
    assert weights(few_good, TrainerSettings(desirable_weight="balanced")) == (3.0, 1.0)
    assert weights(few_good, TrainerSettings(undesirable_weight="balanced")) == (1.0, pytest.approx(1 / 3))
    assert weights(few_good, TrainerSettings()) == (1.0, 1.0)
