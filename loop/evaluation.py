"""Evaluation: an evaluator asks a policy every item of every suite, beside the rollout of the same round."""

from __future__ import annotations

from typing import Any

import ray

from actors.actor import ActorGone
from actors.engine import policy_name
from actors.models.usage import BudgetError
from evals.evaluator import complete, record, summarise
from loop.arm import Arm
from loop.publish import take_in
from loop.report.card import write_card
from loop.report.summary import write_summary
from loop.supervisor import fetch
from loop.takeover import take_over_evaluation


class Evaluation:
    """The evaluation under way in an arm; it outlives a round that has to be entered again."""

    def __init__(self, arm: Arm) -> None:
        self._arm = arm
        self._work: Any = None

    def begin(self, r: int, alone: bool = False) -> None:
        """Start to evaluate policy r; policy 0 is the same in every arm, so an evaluation of it is taken over.

        Args:
            alone: Whether no conversations are held meanwhile.
        """
        arm, folder = self._arm, self._arm.out.evals(self._arm.name, r)
        if self._work is not None and ray.wait([self._work], timeout=0)[0]:
            try:
                fetch(self._work)
            except (ActorGone, BudgetError):
                self._work = None
        if r == 0 and not complete(folder):
            take_over_evaluation(arm)
        if self._work is None and not complete(folder):
            access = arm.supervisor.access(arm.config, policy_name(r), arm.budget.for_judges(alone))
            evaluator = arm.supervisor.evaluator.handle
            self._work = evaluator.evaluate.remote(arm.name, r, access, str(folder), arm.config.evals)

    def attend(self, r: int) -> None:
        """During the rollout: start an evaluation again whose evaluator died, and pass on why another failed."""
        if self._work is None or not ray.wait([self._work], timeout=0)[0]:
            return
        try:
            fetch(self._work)
        except BudgetError:
            self._work = None  # its share was too small; what the pools leave may do
        except ActorGone as error:
            self._work = None  # where an engine died, the pools notice and the round is entered again
            supervisor = self._arm.supervisor
            if [m for m, _ in supervisor.dead()] == [supervisor.evaluator]:
                supervisor.replace(supervisor.evaluator, error)
                self.begin(r)

    def end(self, r: int) -> None:
        """Wait for the evaluation, and show what it came to. Judges whose share of the budget was too small while
        conversations were held get all that is left of it.

        Raises:
            BudgetSpentError: Nor does that do.
            ActorGone: The evaluation was cut short.
        """
        arm = self._arm
        alone = arm.budget.judging_costs and self._work is None
        if alone:
            self.begin(r, alone)
        if self._work is not None:
            work, evaluator = self._work, arm.supervisor.evaluator.handle
            total = fetch(evaluator.progress.remote())[1]
            with arm.stage("evaluate", r, f"evaluate policy {r}", total, "answers") as stage:

                def look() -> tuple[int, int]:
                    take_in(arm, r)
                    return fetch(evaluator.progress.remote())

                arm.watch(work, stage, look)
                self._work = None
                try:
                    stage.took(fetch(work))
                except BudgetError:
                    if not alone:
                        self.end(r)
                        return
                    arm.budget.read_disk()
                    raise arm.budget.exhausted(r, "verdict") from None
                stage.update(*fetch(evaluator.progress.remote()))
            arm.record(r, "evaluate", stage)
        folder = arm.out.evals(arm.name, r)
        if not complete(folder):  # it was cut short during the rollout, which did not need whoever died
            raise ActorGone(f"the evaluation of policy {r} was cut short")
        for why in record(folder).get("distrusted", ()):
            arm.ui.say(f"  {why}")
        arm.monitor.evaluation(summarise(folder, arm.config.evals.max_error_share), r)
        arm.ui.heed()  # how the run ended may be written already
        write_card(arm.out, arm.run_config, arm.name, r)
        write_summary(arm.out, arm.run_config, "running")
