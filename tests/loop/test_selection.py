"""What a round's policy is trained on, as it is written to disk."""

import json

import pytest

from actors.storage.segments import read_table
from loop.config.files import build
from loop.select import SCHEMA
from loop.selection import make_selection
from loop.view.index import ConversationIndex
from tests.loop.report.test_listing import COUNT, Run, candor


@pytest.mark.parametrize(("algorithm", "labels"), [("kto", [True, False]), ("dpo", [True, False]), ("sft", [True])])
def test_nothing_is_selected_that_the_algorithm_does_not_learn_from(tmp_path, algorithm, labels):
    """So that lists, pages and reports, which call what is selected trained on, are right."""
    run = Run(tmp_path / "run", arms=("biased",), rounds=1)
    config = build(
        {**json.loads(run.config.model_dump_json(exclude_unset=True)), "trainer": {"algorithm": algorithm}}, "t"
    )
    run.hold("biased", 0)
    make_selection(config, run.out, "biased", 0)
    selected = read_table(run.out.selection("biased", 0), SCHEMA)
    each = COUNT // 4 - 1  # a quarter of those that were not excluded
    assert sorted(selected["label"].to_pylist(), reverse=True) == [label for label in labels for _ in range(each)]
    audit = json.loads(run.out.audit("biased", 0).read_text())
    assert audit["trained"]["count"] == each * len(labels)
    assert (audit["top"]["count"], audit["bottom"]["count"]) == (each, each if False in labels else 0)
    found = json.loads(candor(run.out.root, "--selected", "any", "--json").stdout)
    assert found["trajectories"] == each * len(labels)
    index = ConversationIndex(run.out, config)
    index.refresh()
    assert len(index.selection("biased", 1)) == each * len(labels)
