"""What a round's policy is trained on, selected from its conversations and kept on disk."""

from __future__ import annotations

from actors.buffer import RoundData
from actors.storage.segments import write_table
from loop.config.schema import RunConfig
from loop.plan import conversation_seed
from loop.rundir import RunDir, write_json
from loop.select import audit, select


def make_selection(config: RunConfig, out: RunDir, arm: str, r: int) -> None:
    """Select from the round's trajectories, and write what is selected and what it consists of.

    Args:
        config: The arm's config.
    """
    source = selected_from(config, r)
    index = RoundData(out.trajectories(arm, source)).index()
    chosen = select(index, config.selects, conversation_seed(config.seed, source, -1))
    write_json(out.audit(arm, r), {"from_round": source, **audit(index, chosen)})
    write_table(out.selection(arm, r), chosen)


def selected_from(config: RunConfig, r: int) -> int:
    """The round whose trajectories are trained on."""
    return 0 if config.selection.control == "frozen" else r
