"""What an algorithm is: what it needs of settings and rows, and how it makes a trainer of TRL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from trainers.rows import Rows
    from trainers.settings import TrainerSettings


class Algorithm:
    """Base of all algorithms.

    Attributes:
        name: What the config calls it.
        both_ends: Whether it needs undesirable rows beside desirable ones.
        has_reference: Whether it holds the policy to another one.
        extra_passes: Forward passes over the rows beside the one that learns: of references and of other rows.
        fewest_together: Fewest rows that it can take at once.
    """

    name: ClassVar[str]
    both_ends: ClassVar[bool]
    has_reference: ClassVar[bool]
    extra_passes: ClassVar[int]
    fewest_together: ClassVar[int] = 1

    def fault(self, settings: TrainerSettings) -> str | None:
        """Which of the settings does not go with it; None if all do."""

    def prepare(self, rows: Rows) -> Rows:
        """What it is trained on, made of rows in tokens (`trainers.rows.Encoded`).

        Raises:
            RowsError: Nothing can be made of them.
        """
        return rows

    def check(self, rows: Rows) -> None:
        """Look at the rows that are left once the batches are even.

        Raises:
            RowsError: It cannot be trained on them.
        """

    def trl(self) -> tuple[type, type]:
        """TRL's config, and its trainer on rows of tokens; the first call takes some seconds, for its imports."""
        raise NotImplementedError

    def make_trainer(
        self,
        model: Any,
        reference: Any,
        tokenizer: Any,
        rows: list[Any],
        settings: TrainerSettings,
        common: dict[str, Any],
    ) -> Any:
        """A trainer of TRL for the rows.

        Args:
            reference: A frozen model of its own; None where it is the base under the adapter, or another adapter on it,
                and where the algorithm has none.
            common: Arguments of TRL's config that are the same for every algorithm.
        """
        raise NotImplementedError
