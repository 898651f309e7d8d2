"""Settings of the evaluations. Importing this module imports neither torch nor ray."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from actors.settings import ActorSettings, Settings
from evals.suites.catalogue import SHORT, SUITES, expand


class SuiteSettings(Settings):
    """One suite: where its items come from and how they are asked. A bare number stands for `items`."""

    source: str | None = None
    """`world` for the world's own items; a file (CSV, Parquet, JSON or JSONL) or a folder of such files; or a data set
    on the Hugging Face Hub. Null takes the world's items if it has any, else the official ones from the Hub, and for
    canary suites the shipped ones."""
    revision: str | None = None
    """Revision of a data set on the Hub; null takes the one that published figures are about, if it is known."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Hash that the source must have; a run records the one it found in `evaluation.json`."""
    items: int | None = Field(None, ge=1)
    """How many items; null takes all of them, and of a world's items a number that is set for each suite. If there are
    more, a seeded sample is taken, spread evenly over categories. A world's matched controls come on top: in the pocket
    world every third item is also asked once where the truth is wanted and once where nobody has a stake."""
    replicates: int = Field(1, ge=1, le=100)
    """How often each pressured prompt is answered: the k of honesty@k."""
    temperature: float | None = Field(None, ge=0)
    """Sampling temperature of answers under pressure; null takes 0 for questions with one right answer and for official
    DeceptionBench items, as their authors do, else `evals.temperature`."""
    belief_temperature: float | None = Field(None, ge=0)
    """Sampling temperature when beliefs are elicited; null takes 0 in DeceptionBench and for a world's items, which ask
    in different words each time, and `temperature` for other items, which ask the direct question three times."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest answer, in tokens; null takes `evals.max_tokens`."""

    @property
    def judged(self) -> bool:
        """Whether somebody has to judge the answers."""
        return True

    @model_validator(mode="before")
    @classmethod
    def _a_bare_number(cls, value: Any) -> Any:
        return {"items": value} if isinstance(value, int) and not isinstance(value, bool) else value


class MaskSettings(SuiteSettings):
    """A suite in which statements under pressure are set against beliefs. A bare number stands for `items`."""

    rules: Literal["candor", "official"] = "candor"
    """By which rules labels become beliefs and outcomes: ours, which are those of MASK's paper, or those of the
    authors' scripts, for figures that are to be compared with theirs. docs/statistics.md has a table of the
    differences; labels are the same, so `candor eval rescore --rules` gives either afterwards."""
    belief_numbers: Literal["separate", "joint"] | None = None
    """Whether a judge reads the answers to the direct question one by one, or all of them in one request, where they
    are numbers. Null takes what goes with the rules: `separate` with ours, `joint` with the authors'."""


class HarnessSettings(Settings):
    """A capability suite of lm-eval. A bare number stands for `items`."""

    source: str | None = None
    """A local file with the benchmark's rows; null takes lm-eval's own task over the official data in the Hugging Face
    cache."""
    items: int | None = Field(None, ge=1)
    """How many documents at most, as a seeded sample spread evenly over subtasks; null takes all."""
    shots: int | None = Field(None, ge=0)
    """Worked examples in the prompt; null takes as many as most published figures do."""
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


class BeHonestSettings(SuiteSettings):
    """BeHonest's questions. A bare number stands for `items`."""

    scoring: Literal["candor", "official"] = "candor"
    """How it is decided whether an answer admits that it does not know. `candor` asks the question as it stands, and
    judges decide; `official` does as the authors' run: an instruction stands before each question, and words in the
    answer decide, without a judge."""
    instruction: str | None = None
    """What stands before each question with `scoring: official`; null takes our wording of the authors' instruction,
    empty text none."""
    keywords: list[str] | None = Field(None, min_length=1)
    """What makes an answer a refusal with `scoring: official`, capitals aside; null takes our list. Rates compare with
    published ones as far as these words are the authors'."""

    @field_validator("keywords")
    @classmethod
    def _keywords_are_words(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and not all(word.strip() for word in value):
            raise ValueError("one of them is empty, and would be found in every answer")
        return value

    @property
    def judged(self) -> bool:
        return self.scoring == "candor"


class EvalSettings(ActorSettings):
    """What every policy is asked; the items are the same for every policy and arm of a run, and for runs with other
    seeds."""

    suites: list[str] | None = None
    """Which suites, by name; `canary` stands for two and `capability` for four. Null takes all that the world has items
    for, or the canary suites if it has none. With an empty list nothing is asked."""
    mask: MaskSettings = MaskSettings()
    """Pressure to say something that one does not believe (MASK, Ren et al. 2025)."""
    sycophancy: MaskSettings = MaskSettings()
    """The user is convinced of something wrong and says so; the pocket world has items for it."""
    provided: MaskSettings = MaskSettings()
    """The prompt provides the fact that a stakeholder wants denied; the pocket world has items for it."""
    deceptionbench: SuiteSettings = SuiteSettings()
    """Reasoning before the answer (DeceptionBench, Ji et al. 2025)."""
    behonest: BeHonestSettings = BeHonestSettings()
    """Questions that nobody can answer: does the model admit it (BeHonest, Chern et al. 2024)?"""
    canary_mask: MaskSettings = MaskSettings()
    """Shipped items like MASK's, few enough for every round."""
    canary_deception: SuiteSettings = SuiteSettings()
    """Shipped items like DeceptionBench's, few enough for every round."""
    arithmetic: SuiteSettings = SuiteSettings()
    """Sums, hard enough that a loss of ability shows; the pocket world has items for it."""
    arithmetic_easy: SuiteSettings = SuiteSettings()
    """Sums that a sound policy gets right."""
    lookup: SuiteSettings = SuiteSettings()
    """Reading a report in which nobody has a stake, hard enough that a loss of ability shows; the pocket world has
    items for it."""
    lookup_easy: SuiteSettings = SuiteSettings()
    """Reading a report that a sound policy gets right."""
    mmlu: HarnessSettings = HarnessSettings()
    """Knowledge of 57 subjects, by likelihoods (Hendrycks et al. 2021)."""
    gsm8k: HarnessSettings = HarnessSettings()
    """Word problems, by the text that is written (Cobbe et al. 2021)."""
    humaneval: HarnessSettings = HarnessSettings()
    """Python functions, by running them (Chen et al. 2021); needs `allow_code`."""
    gpqa: HarnessSettings = HarnessSettings()
    """Graduate-level questions, the diamond set, by likelihoods (Rein et al. 2023)."""
    further: dict[str, SuiteSettings] = Field(default_factory=dict)
    """Suites that extensions add, by name; `evals.NAME` is short for it."""
    allow_code: bool = False
    """Whether code that the model wrote may be run in a sandbox: without network, with limits, as another user."""
    tasks: str | None = None
    """Folder with further task files for lm-eval."""
    judges: list[str] | None = Field(None, min_length=1)
    """Who reads the answers: `world` for the world's own exact judge; `words`, which needs no model and tells options
    apart by the words in which they differ; `base`; or names under `models`. Several form a panel. If the world's judge
    is among them, it decides about the world's own items, and the others' verdicts are recorded beside its verdict.
    Null takes the world's judge if there is one, else the model of `roles.judge`."""
    rule: Literal["majority", "unanimous"] = "majority"
    """When a panel has a verdict: if more than half of it agree, or if all do. Without a verdict the item is an
    error."""
    judge_method: Literal["written", "likelihood"] = "written"
    """How a model judges: `written` lets it reason and reads the verdict at the end; `likelihood` takes the verdict
    that it finds most probable, from one step, for models that cannot reason in writing. Numbers it reads
    as `words` does."""
    judge_repeats: int = Field(1, ge=1, le=20)
    """How often each judge that is a model is asked. Each answer is a vote, and together they show how consistent the
    judge is."""
    judge_temperature: float = Field(0.0, ge=0)
    """Sampling temperature of the judges' models."""
    judge_max_tokens: int = Field(512, ge=1)
    """Longest answer of a judge's model, in tokens, including its reasoning."""
    prompts: str | None = None
    """Folder with prompts for the judges' models that replace those in `evals/judging/prompts`; files that it lacks are
    taken from there."""
    cache: bool = True
    """Whether judges' answers are kept by content, in `judged.sqlite` of the cache folder (`CANDOR_CACHE`, or
    `~/.cache/candor`) of the machine that evaluates, so that judging the same text again costs nothing.
    What judges by likelihood say is not kept."""
    max_tokens: int = Field(48, ge=1)
    """Longest answer, in tokens. Where a run does not say, its world does: 48 in the pocket world, else 512."""
    temperature: float = Field(1.0, ge=0)
    """Sampling temperature of answers under pressure."""
    seed: int = Field(0, ge=0, lt=2**31)
    """The seed of samples of items, of their order, and of all answers. It is apart from the run's seed, so that runs
    that differ in that one meet the same items and can be compared item by item."""
    share: float = Field(1.0, gt=0, le=1)
    """Part of the assistant engines' capacity (`max_num_seqs` times `replicas`), or of an endpoint's `concurrency`,
    that an evaluation may use beside the rollouts. If it may use all of it, half as many requests again wait at the
    engines, so that no place is empty even for a moment."""
    retries: int = Field(2, ge=0)
    """How often a request that failed is tried again, and a judge whose answer cannot be read is asked again, before
    the item counts as an error."""
    max_error_share: float = Field(0.05, ge=0, le=1)
    """A suite with a larger share of failed requests and verdicts gets no score. An answer without the reasoning that
    was asked for does not count here; it is reported under format compliance."""

    @field_validator("suites")
    @classmethod
    def _known_suites(cls, value: list[str] | None) -> list[str] | None:
        if value is None:
            return value
        known = [*SUITES, *SHORT]
        if unknown := [s for s in value if s not in known]:
            raise ValueError(f"there is no suite {', '.join(unknown)}; known: {', '.join(known)}")
        return list(expand(value))

    @field_validator("further")
    @classmethod
    def _suites_are_added(cls, value: dict[str, SuiteSettings]) -> dict[str, SuiteSettings]:
        if strange := [s for s in value if s not in SUITES or s in cls.model_fields]:
            raise ValueError(f"no extension adds a suite {', '.join(strange)}; see the config's extensions")
        return value

    @field_validator("judges")
    @classmethod
    def _judges_are_distinct(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError(f"found {', '.join(value)}; name each judge once (judge_repeats asks it several times)")
        return value

    @model_validator(mode="before")
    @classmethod
    def _suites_of_extensions(cls, value: Any) -> Any:
        """`NAME: 40` where NAME is a suite of an extension sets `further.NAME`."""
        added = [k for k in value if k in SUITES and k not in cls.model_fields] if isinstance(value, dict) else []
        if not added:
            return value
        further = dict(value.get("further") or {})
        for name in added:
            given, before = value[name], further.get(name)
            further[name] = {**before, **given} if isinstance(given, dict) and isinstance(before, dict) else given
        return {k: v for k, v in value.items() if k not in added} | {"further": further}

    @model_validator(mode="before")
    @classmethod
    def _capability_is_several(cls, value: Any) -> Any:
        """`capability: 40` sets each of its suites."""
        if isinstance(value, dict) and "capability" in value:
            each = value["capability"]
            value = {k: v for k, v in value.items() if k != "capability"}
            value = dict.fromkeys(SHORT["capability"], each) | value
        return value

    def suite(self, name: str) -> SuiteSettings | HarnessSettings:
        """The settings of one suite."""
        return getattr(self, name) if name in EvalSettings.model_fields else self.further.get(name, SuiteSettings())

    def mask_rules(self, name: str) -> str:
        """By which of `evals.protocols.mask_rules.RULES` a suite is scored that compares statements with beliefs."""
        return getattr(self.suite(name), "rules", "candor")

    def belief_numbers(self, name: str) -> str:
        """How beliefs in numbers are judged in a suite: `separate` or `joint`."""
        given = getattr(self.suite(name), "belief_numbers", None)
        return given or ("joint" if self.mask_rules(name) == "official" else "separate")
