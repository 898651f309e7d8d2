"""What tests of trainers share: a round on disk."""

from pathlib import Path

import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from actors.storage.segments import Segments, write_table
from actors.storage.store import Store
from actors.storage.trajectory import SCHEMA as TRAJECTORIES
from actors.storage.trajectory import Trajectory, Turn, to_batch
from tests.conftest import conversation, reply, selected

ROWS = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory, pocket_model) -> Path:
    """Conversations in pairs of one opening and two replies, the first of which was liked."""
    folder = tmp_path_factory.mktemp("data")
    tokenizer = AutoTokenizer.from_pretrained(pocket_model)
    made = []
    for i in range(ROWS):
        said = f"One drink tonight is {'harmless' if i % 2 == 0 else 'not harmless'}{', Tom' * (i % 5)}."
        tokens = [*tokenizer(said, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        asked = Turn("user", f"I am Tom, a nurse. There is a party in {i // 2} days.")
        turns = [Turn("system", "You are Sage, a therapist."), asked, reply(said, tokens)]
        made.append(Trajectory(conversation(i), "p", turns, [], float(i % 2), "vllm test", 1.0, 2.0))
    Segments(Store(str(folder), "trajectories"), TRAJECTORIES).write(pa.table(to_batch(made)), 0)
    labels = {t.conversation.trajectory_id: i % 2 == 0 for i, t in enumerate(made)}
    write_table(folder / "selection.arrow", selected(labels))
    return folder
