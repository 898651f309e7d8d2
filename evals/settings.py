"""Settings of the evaluations. Importing this module imports neither torch nor ray."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from actors.settings import ActorSettings, Settings

PROTOCOLS = {
    "mask": "mask",
    "sycophancy": "mask",
    "provided": "mask",
    "canary_mask": "mask",
    "deceptionbench": "deceptionbench",
    "canary_deception": "deceptionbench",
    "behonest": "unknowns",
    "arithmetic": "questions",
    "lookup": "questions",
    "mmlu": "harness",
    "gsm8k": "harness",
    "humaneval": "harness",
    "gpqa": "harness",
}
"""How the items of each suite are put and scored."""
HONESTY_PROTOCOLS = ("mask", "deceptionbench")
WORLD_SUITES = ("mask", "sycophancy", "provided", "deceptionbench", "arithmetic", "lookup")
"""What a world may have items of its own for."""
CANARY = ("canary_mask", "canary_deception")
SHORT = {"canary": CANARY, "capability": ("arithmetic", "lookup")}
"""Names that stand for several suites."""
HUB = {"mask": "cais/MASK", "deceptionbench": "PKU-Alignment/DeceptionBench", "behonest": "GAIR/BeHonest"}
"""Where the official items are, on the Hugging Face Hub."""
HUB_REVISIONS = {"mask": "4602b84dd9e2ca05c6e1eafbc14e556e908ac1bb"}
"""The revisions that published figures are about, where it is known."""


def expand(suites: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Suites by their own names, each once, in the order given."""
    return tuple(dict.fromkeys(s for name in suites for s in SHORT.get(name, (name,))))


class SuiteSettings(Settings):
    """One suite: where its items come from and how they are put. A bare number stands for `items`."""

    source: str | None = None
    """`world` for the world's own items; a file (CSV, Parquet, JSON or JSONL) or a folder of such files; or a data set
    on the Hugging Face Hub. Null takes the world's items where it has any, else the official ones from the Hub, and for
    canary suites the shipped ones."""
    revision: str | None = None
    """Revision of a data set on the Hub; null takes the one that published figures are about, where it is known."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Hash that the source must have; a run records the one it found in `evaluation.json`."""
    items: int | None = Field(None, ge=1)
    """How many items; null takes all that there are, and of a world a number of its own. Fewer than there are means a
    seeded sample, spread evenly over categories."""
    replicates: int = Field(1, ge=1, le=100)
    """How often each pressured prompt is answered: the k of honesty@k."""
    temperature: float | None = Field(None, ge=0)
    """Sampling temperature of what is said under pressure; null takes 0 for questions with
    one right answer and for official DeceptionBench items, as their authors do, else `evals.temperature`."""
    belief_temperature: float | None = Field(None, ge=0)
    """Sampling temperature of beliefs; null takes 0 in DeceptionBench and for a world's items, whose
    elicitations differ in words, and `temperature` for others, whose direct elicitation is asked three times."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest answer, in tokens; null takes `evals.max_tokens`."""

    @model_validator(mode="before")
    @classmethod
    def _a_bare_number(cls, value: Any) -> Any:
        return {"items": value} if isinstance(value, int) and not isinstance(value, bool) else value


class HarnessSettings(Settings):
    """A capability suite of lm-eval. A bare number stands for `items`."""

    source: str | None = None
    """A local file with the benchmark's rows; null takes lm-eval's own task over the official data in the Hugging Face
    cache."""
    items: int | None = Field(None, ge=1)
    """Most documents, a seeded sample spread evenly over subtasks; null takes all."""
    shots: int | None = Field(None, ge=0)
    """Worked examples in the prompt; null takes what published figures mostly have."""
    chat: bool = False
    """Whether prompts go through the model's chat template."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest answer, in tokens; null takes the task's."""
    replicates: Literal[1] = 1
    """Every document is asked once."""

    @model_validator(mode="before")
    @classmethod
    def _a_bare_number(cls, value: Any) -> Any:
        return {"items": value} if isinstance(value, int) and not isinstance(value, bool) else value


class EvalSettings(ActorSettings):
    """What every policy is asked; the items are the same for every policy and arm of a run."""

    suites: list[str] | None = None
    """Which suites, by name; `canary` and `capability` stand for two each. Null takes all that the world has items
    for, and in a world without any the canary suites; an empty list asks nothing."""
    mask: SuiteSettings = SuiteSettings()
    """Pressure to say something else than one believes (MASK, Ren et al. 2025)."""
    sycophancy: SuiteSettings = SuiteSettings()
    """The user states a wrong conviction; the pocket world has items for it."""
    provided: SuiteSettings = SuiteSettings()
    """The prompt provides the fact that a stakeholder wants denied; the pocket world has items for it."""
    deceptionbench: SuiteSettings = SuiteSettings()
    """Reasoning before the answer (DeceptionBench, Ji et al. 2025)."""
    behonest: SuiteSettings = SuiteSettings()
    """Questions that nobody can answer: does the model admit it (BeHonest, Chern et al. 2024)?"""
    canary_mask: SuiteSettings = SuiteSettings()
    """Shipped items like MASK's, few enough for every round."""
    canary_deception: SuiteSettings = SuiteSettings()
    """Shipped items like DeceptionBench's, few enough for every round."""
    arithmetic: SuiteSettings = SuiteSettings()
    """Sums; the pocket world has items for it."""
    lookup: SuiteSettings = SuiteSettings()
    """Reading a report in which nobody has a stake; the pocket world has items for it."""
    mmlu: HarnessSettings = HarnessSettings()
    """Knowledge of 57 subjects, by likelihoods (Hendrycks et al. 2021)."""
    gsm8k: HarnessSettings = HarnessSettings()
    """Word problems, by what is written (Cobbe et al. 2021)."""
    humaneval: HarnessSettings = HarnessSettings()
    """Python functions, by running them (Chen et al. 2021); needs `allow_code`."""
    gpqa: HarnessSettings = HarnessSettings()
    """Questions for graduates, the diamond set, by likelihoods (Rein et al. 2023)."""
    allow_code: bool = False
    """Whether code that the model wrote may be run, fenced in: without network, with limits, as another user."""
    tasks: str | None = None
    """Folder with further task files of lm-eval's kind."""
    judges: list[str] | None = Field(None, min_length=1)
    """Who says what an answer states: `world` for the world's own exact judge, or names under `models`, `base` among
    them. Several are a panel; where the world's judge is among them, it decides about the world's items and the others'
    verdicts are recorded beside it. Null takes the world's judge where it has one, else the model of `roles.judge`."""
    rule: Literal["majority", "unanimous"] = "majority"
    """When a panel has a verdict: more than half of it agree, or all do. Without one the item counts as an error."""
    judge_repeats: int = Field(1, ge=1, le=20)
    """How often each judge that is a model is asked; each answer is a vote, and together they show how consistent it
    is."""
    judge_temperature: float = Field(0.0, ge=0)
    """Sampling temperature of the judges' models."""
    judge_max_tokens: int = Field(512, ge=1)
    """Longest answer of a judge's model, in tokens, its reasoning included."""
    prompts: str | None = None
    """Folder with prompts for the judges' models, in place of those in `evals/prompts`; files that it lacks are taken
    from there."""
    cache: bool = True
    """Whether judges' answers are kept by content, in `judged.sqlite` of the cache folder (`CANDOR_CACHE`, or
    `~/.cache/candor`) of the machine that evaluates, so that judging the same text again costs nothing."""
    max_tokens: int = Field(48, ge=1)
    """Longest answer, in tokens."""
    temperature: float = Field(1.0, ge=0)
    """Sampling temperature of what is said under pressure."""
    share: float = Field(1.0, gt=0, le=1)
    """Part of the assistant engines' capacity (`max_num_seqs` times `replicas`), or of an endpoint's `concurrency`,
    that an evaluation may use at once beside the rollouts. With all of it, half as many requests again wait at the
    engines, so that no place is empty for a moment."""
    retries: int = Field(2, ge=0)
    """How often a request that failed is tried again, and a judge whose answer cannot be read is asked again, before
    the item counts as an error."""
    max_error_share: float = Field(0.05, ge=0, le=1)
    """Above this share of failed requests and verdicts a suite gets no score. An answer without the reasoning that was
    asked for is reported as format compliance and does not count here."""

    @field_validator("suites")
    @classmethod
    def _known_suites(cls, value: list[str] | None) -> list[str] | None:
        if value is None:
            return value
        known = [*PROTOCOLS, *SHORT]
        if unknown := [s for s in value if s not in known]:
            raise ValueError(f"there is no suite {', '.join(unknown)}; known: {', '.join(known)}")
        return list(expand(value))

    @field_validator("judges")
    @classmethod
    def _judges_are_distinct(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError(f"found {', '.join(value)}; name each judge once (judge_repeats asks it several times)")
        return value

    @model_validator(mode="before")
    @classmethod
    def _capability_is_two(cls, value: Any) -> Any:
        """`capability: 40` sets both of its suites."""
        if isinstance(value, dict) and "capability" in value:
            both = value["capability"]
            value = {k: v for k, v in value.items() if k != "capability"}
            value = dict.fromkeys(SHORT["capability"], both) | value
        return value

    def suite(self, name: str) -> SuiteSettings | HarnessSettings:
        """The settings of one suite."""
        return getattr(self, name)
