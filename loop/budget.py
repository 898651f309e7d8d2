"""The run's budget: what was spent, what each spender may still spend, and what is said when it is spent."""

from __future__ import annotations

from typing import Any

from actors.models.usage import cost_of
from loop.config.schema import RunConfig
from loop.report.summary import usage_on_disk
from loop.rundir import RunDir
from loop.supervisor import ActorSupervisor, fetch


class BudgetSpentError(RuntimeError):
    """The next conversation or verdict could cost more than is left of `budget`."""


class Budget:
    """What the run has spent and may spend, while one of its arms is at work.

    Attributes:
        figures: `budget_spent`, as `line` last said it; empty where no model has a price, and where other arms are at
            work too.
    """

    def __init__(
        self, run_config: RunConfig, config: RunConfig, arm: str, out: RunDir, supervisor: ActorSupervisor
    ) -> None:
        self._run_config = run_config
        self._config = config
        self._arm = arm
        self._out = out
        self._supervisor = supervisor
        self._before: list[dict[str, Any]] = []
        self.figures: dict[str, float] = {}

    def read_disk(self) -> None:
        """Take from disk what was spent so far; what the round at work adds, the buffer knows."""
        self._before = usage_on_disk(self._out, self._run_config)

    def spent(self, r: int, usage: list[dict[str, Any]] | None = None) -> float:
        """Money spent so far: what all finished rounds cost, and the conversations of round r that are there (`usage`,
        where it has been asked for already)."""
        prices = self._run_config.prices
        if not any(prices.values()):
            return 0.0
        return cost_of([*self._before, *(self._usage(r) if usage is None else usage)], prices)

    def for_pool(self, r: int) -> float | None:
        """The money that one user pool may spend now; None for any. Judges of an evaluation get as much as a pool."""
        if self._config.budget is None:
            return None
        left = max(0.0, self._config.budget - self.spent(r))
        return left / (len(self._supervisor.pools) + self.judging_costs)

    def for_judges(self, alone: bool) -> float | None:
        """The money that an evaluation may spend on judges; where it is not alone, each of the pools has as much."""
        if self._config.budget is None or not self.judging_costs:
            return None
        left = self._config.budget - cost_of(usage_on_disk(self._out, self._run_config), self._run_config.prices)
        return max(0.0, left) / (1 if alone else len(self._supervisor.pools) + 1)

    @property
    def judging_costs(self) -> bool:
        """Whether evaluations spend money: on models that judge."""
        return any(self._run_config.prices.get(name) for name in self._config.eval_judges)

    def exhausted(self, r: int, what: str) -> BudgetSpentError:
        """The error that says that the money does not reach for the next conversation or verdict."""
        return BudgetSpentError(
            f"the budget is spent: {self.spent(r):.4g} of {self._config.budget:g}, and the next {what} could cost more "
            "than is left. What was done is kept; raise budget to continue"
        )

    def line(self, r: int) -> str:
        """What the terminal says of the cost: of this round by role, in money where models have a price and else in
        tokens, and of the run where there is a budget."""
        usage, prices = self._usage(r), self._run_config.prices
        roles: dict[str, float] = {}
        for u in usage:
            cost = cost_of([u], prices) if any(prices.values()) else u["prompt_tokens"] + u["completion_tokens"]
            roles[u["role"]] = roles.get(u["role"], 0) + cost
        said = ", ".join(f"{role} {cost:,.4g}" if any(prices.values()) else f"{role} {cost / 1000:,.0f}k tokens"
                         for role, cost in roles.items() if cost)  # fmt: skip
        budget, spent = self._config.budget, self.spent(r, usage)
        alone = self._run_config.side_by_side == 1  # of several arms at work each knows its own round
        self.figures = {"budget_spent": spent} if alone and any(prices.values()) else {}
        return said + (f"; {spent:,.4g} of {budget:g} spent" if budget else "")

    def _usage(self, r: int) -> list[dict[str, Any]]:
        """What the conversations cost that round r has so far; nothing more once its figures are on disk."""
        if self._out.rollout(self._arm, r).exists():
            return []
        return fetch(self._supervisor.buffer.handle.usage.remote())
