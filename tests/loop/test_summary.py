import numpy as np
import pyarrow as pa
import pytest

from actors.segments import Segments
from actors.trajectory import SCHEMA, to_batch
from loop.rundir import RunDir, write_json
from loop.summary import RolloutFigures, rollout_summary
from tests.conftest import trajectory


def tables(*groups):
    return [pa.table(to_batch([trajectory(i, *more) for i, *more in group])) for group in groups]


def test_figures_do_not_depend_on_how_trajectories_lie_in_segments():
    rows = [(0, 3.0), (1, None), (2, 5.0, "biased"), (3, 7.0), (4, 1.0, "biased")]
    whole, apart = RolloutFigures.of(tables(rows)), RolloutFigures.of(tables(rows[3:], rows[:1], rows[1:3]))
    assert whole.summary(5) == apart.summary(5)
    assert whole.summary(5)["trajectories"] == {"planned": 5, "finished": 4, "excluded": 1}
    assert whole.summary(5)["replies"] == {"benign": {"help": 4}, "biased": {"help": 4}}
    assert whole.summary(5)["mean_rating"] == {"benign": 6.0, "biased": 6.0}
    assert sorted(-i for i, _ in apart.kinds["benign"].samples) == [0, 3]
    assert np.array_equal(whole.kinds["biased"].ratings, apart.kinds["biased"].ratings)


def test_a_torn_file_in_a_round_under_way_is_for_the_buffer_to_find(tmp_path):
    out = RunDir(tmp_path)
    data = Segments(out.trajectories("a", 0), SCHEMA)
    assert rollout_summary(out, "a", 0, 2) == {}
    data.write(tables([(0, 1.0)])[0], 0)
    assert rollout_summary(out, "a", 0, 2)["trajectories"]["finished"] == 1
    torn = data.store.local / data.all()[0].name
    torn.write_bytes(torn.read_bytes()[:100])
    assert rollout_summary(out, "a", 0, 2) == {}
    write_json(out.rollout("a", 0), {"kept": 1})
    assert rollout_summary(out, "a", 0, 2) == {"kept": 1}
    with pytest.raises(RuntimeError, match="torn"):
        rollout_summary(out, "a", 0, 2, anew=True)
