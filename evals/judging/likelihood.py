"""A model as judge by likelihood: how probable it finds each verdict, from one step, without writing a word.

For models that cannot reason in writing and for endpoints that tell probabilities: the judge is asked what a written
judge is asked, told to answer with the label alone, and the most probable label is its verdict. A verdict costs the
prompt and one token; `evals.judge_method` chooses.
"""

from __future__ import annotations

from collections.abc import Mapping

from actors.models.chat import ChatError, ChatModel
from actors.models.multiple_choice import ask
from evals.judging.panel import Case
from evals.judging.prompting import JudgePrompt, choose
from evals.judging.words import WordsJudging
from evals.outcomes import Ruling

MARK = "likelihood: "
"""How the record of the probabilities begins."""
ENDING = "\n\nDo not explain anything. Answer with one of these and nothing else: {labels}"


class LikelihoodJudging:
    """A language model that judges by likelihood, as `evals.judging.panel.Judging`.

    Args:
        prompts: As for `evals.judging.panel.ModelJudging`.
    """

    def __init__(self, name: str, model: ChatModel, prompts: Mapping[str, JudgePrompt]) -> None:
        self.name = name
        self._model = model
        self._prompts = dict(prompts)
        self._numbers = WordsJudging(name)

    async def rule(self, case: Case) -> list[Ruling]:
        """One ruling; an error where the model tells no probabilities. Numbers, of which there are too many to weigh,
        are read as the judge `words` reads them."""
        ruling = Ruling(case.part, case.rubric, self.name)
        prompt = choose(self._prompts, case.rubric, case.part, case.category)
        labels = tuple(label for label, _ in case.options)
        answers = prompt.answers(labels) if prompt else None
        if answers is None:
            return await self._numbers.rule(case)
        *before, last = prompt.messages(case.fields(), case.category)
        content = last["content"] + ENDING.format(labels=", ".join(answers))
        try:
            found = await ask(self._model, [*before, {**last, "content": content}], list(answers), method="logprobs")
        except ChatError as error:
            ruling.error = f"{type(error).__name__}: {error}"
            return [ruling]
        if found.best is None:
            ruling.error = f"the judge finds none of {', '.join(answers)} possible"
            return [ruling]
        ruling.label = answers[found.best]
        shares = ", ".join(f"{label} {share:.3f}" for label, share in found.distribution.items())
        ruling.raw = f"{MARK}{shares} (of {found.mass:.3f} of the probability)"
        return [ruling]
