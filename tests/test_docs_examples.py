"""What the pages in docs/ show works: examples are run as they stand there, and files that are named exist."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from http.server import ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import typer
import yaml
from typer.testing import CliRunner

from actors import extensions
from actors.extensions import ExtensionError
from actors.metrics import SINKS
from actors.models.endpoint import Endpoint
from actors.models.multiple_choice import ask
from actors.rating import RATINGS
from actors.settings import EndpointSettings
from actors.storage.segments import read_table
from actors.worlds import load_world, questions
from evals.evaluator import record
from evals.judging import prompting
from evals.outcomes import SCHEMA
from evals.protocols import PROTOCOLS
from evals.settings import EvalSettings
from evals.suites.catalogue import SUITES
from loop.cli.app import app
from loop.config.explain import ConfigError
from loop.config.files import load
from loop.controls import CONTROLS
from loop.rundir import RunDir, read_json
from loop.select import select
from loop.sweep.folder import SweepDir
from loop.sweep.report import write_results
from tests.actors.worlds.test_worlds import docs_example
from tests.conftest import ROOT
from tests.endpoint_server import serve
from tests.loop.sweep.planted import sweep_of
from tests.loop.sweep.test_results import finish
from trainers.algorithms import ALGORITHMS
from trainers.job import TrainJob
from trainers.policy import read_lineage

EXTENDING = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])


@pytest.fixture
def registries():
    """Afterwards there is nothing of any extension left in this process."""
    kept = [
        (names, names.copy())
        for names in (ALGORITHMS, CONTROLS, PROTOCOLS, SUITES, prompting.FIELDS, prompting._ADDED, extensions._LOADED)
    ]
    sinks = SINKS.copy()
    yield
    for names, before in kept:
        names.clear()
        names.update(before)
    SINKS[:] = sinks
    for name in [n for n in sys.modules if n.startswith("candor_extension_")]:
        del sys.modules[name]
    prompting.load.cache_clear()


@pytest.fixture
def files(tmp_path, monkeypatch, registries):
    """A folder with every file that docs/extending.md shows, and the world of docs/worlds.md; the tests work in it."""
    for name, text in re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", EXTENDING, re.DOTALL | re.MULTILINE):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    docs_example(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANDOR_CACHE", str(tmp_path / "cache"))
    return tmp_path


def module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def candor(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def test_the_world_is_sound_and_its_config_can_be_run(files):
    assert candor("world", "check", "garden").exit_code == 0
    checked = candor("config", "check", "garden.yaml", "--json")
    assert checked.exit_code == 0, checked.stderr
    assert {s["suite"] for s in json.loads(checked.stdout)["suites"]} == {"canary_mask", "canary_deception"}


def test_items_of_ones_own_are_asked_and_judged_with_a_prompt_of_ones_own(files):
    def answers(messages):
        """A model that lies about caffeine to please the shop, and its judge."""
        text = messages[-1]["content"]
        if 'Write "Claim: "' in text:
            answer = text.split("Answer: ")[1].split("\n")[0]
            return f"It is plain.\nClaim: {'B' if 'no caffeine' in answer else 'A'}"
        if "Verdict:" in text:
            return "Verdict: [75, 75]"
        return "It has no caffeine." if "label" in text else "It has caffeine, and 75 degrees are best."

    with serve(answer=answers, models=["mock", "judge"]) as server:
        words = [
            "--config",
            "tea.yaml",
            "--base-url",
            server.base_url,
            "--set",
            f"models.judge.base_url={server.base_url}",
        ]
        done = candor("eval", "mock", *words, "--out", "out", "--json")
    assert done.exit_code == 0, done.stderr
    rows = read_table(files / "out/mask.arrow", SCHEMA).to_pylist()
    assert {(r["item_id"], r["outcome"]) for r in rows} == {
        ("known_facts/tea-1", "lie"),
        ("known_facts/tea-2", "honest"),
    }
    assert len(rows) == 4
    assert record(files / "out")["prompts"]["stated"]["text"] == (files / "tea/prompts/stated.yaml").read_text()


def test_a_suite_with_rules_and_a_judge_of_ones_own_is_asked_and_scored(files):
    def answers(messages):
        """A model that tells whoever is lonely that it is human, and a judge who can tell."""
        text = messages[-1]["content"]
        if 'Write "Verdict: YES"' in text:
            return "Verdict: YES" if "It answered: I am an AI" in text else "Verdict: NO"
        return "Yes, I am a person." if "It helps" in text else "I am an AI."

    with serve(answer=answers, models=["mock", "judge"]) as server:
        words = ["--config", "candid.yaml", "--base-url", server.base_url]
        done = candor("eval", "mock", *words, "--set", f"models.judge.base_url={server.base_url}", "--out", "out")
    assert done.exit_code == 0, done.stderr
    rows = read_table(files / "out/candid.arrow", SCHEMA).to_pylist()
    assert sorted((r["item_id"], r["outcome"]) for r in rows) == 2 * [("bank", "admitted")] + 2 * [("night", "denied")]
    figures = json.loads(candor("eval", "rescore", "out", "--json").stdout)
    assert figures["out"]["figures"]["candid"]["candour"] == 0.5
    settings = EvalSettings.model_validate({"further": {"candid": {"items": 1}}, "candid": {"replicates": 3}})
    assert (settings.suite("candid").items, settings.suite("candid").replicates) == (1, 3)
    with pytest.raises(ValueError, match="no extension adds a suite candide; see the config's extensions"):
        EvalSettings.model_validate({"further": {"candide": 3}})
    del PROTOCOLS["candid"]
    with pytest.raises(ExtensionError, match="candid was asked by the protocol 'candid', which an extension adds"):
        record(files / "out")


def test_a_control_of_ones_own_ranks_a_round(files):
    config = load(Path("noisy.yaml"))
    exact, noisy = (config.for_arm(arm).selection for arm in config.arms)
    ids = [f"t{n:03}" for n in range(400)]
    trajectories = pa.table({"trajectory_id": ids, "reward": [float(n) for n in range(400)]})
    best = {
        s.control: set(select(trajectories, s, seed=1).filter(pc.field("label"))["trajectory_id"].to_pylist())
        for s in (exact, noisy)
    }
    assert best["none"] == set(ids[-100:])
    assert 50 < len(best["noisy"] & best["none"]) < 90, "noise as large as the spread decides in part"


def test_a_sink_of_ones_own_keeps_figures_as_lines(files):
    extensions.load(["csv_file.py"])
    for begin, value in ((0, 1.0), (2, 5.0)):
        sink = SINKS[-1](files / "figures", begin)
        for step in range(begin, 3):
            sink.log("train/loss", value, step)
        sink.close()
    assert (files / "figures/figures.csv").read_text().split() == [
        "0,train/loss,1.0",
        "1,train/loss,1.0",
        "2,train/loss,5.0",
    ]


def test_a_config_may_name_an_algorithm_of_an_extension_and_no_run_begins_with_another_text_of_it(files):
    with pytest.raises(ConfigError, match=r"trainer\.algorithm: found 'apo'; known: kto, sft, dpo; others come with"):
        load(Path("apo.yaml"), {"extensions": []})
    config = load(Path("apo.yaml"))
    assert config.trainer.algorithm == "apo"
    assert config.extensions == [str(files / "apo.py")], "a run in another folder needs the whole path"
    out = RunDir(files / "run")
    out.pin_extensions(config.extensions)
    out.pin_extensions(config.extensions)
    (files / "apo.py").write_text("# another")
    with pytest.raises(ConfigError, match=r"run began with another version of .*apo\.py; undo the change"):
        out.pin_extensions(config.extensions)


@pytest.mark.heavy
def test_an_algorithm_of_ones_own_trains(files, pocket_model):
    from trainers.rows import Row, Rows
    from trainers.trainer import Trainer

    class Given(TrainJob):
        def rows(self, settings):
            """Eight times a reply that was liked and one that was not."""
            said = {True: "One drink tonight is harmless.", False: "One drink tonight brings the old habit back."}
            hello, kinds = {"role": "user", "content": "Hello."}, 8 * [True, False]
            talks = [[hello, {"role": "assistant", "content": said[liked]}] for liked in kinds]
            return Rows([Row(talk, [1], {}, kinds[n], str(n)) for n, talk in enumerate(talks)])

    s = load(Path("apo.yaml"), {"trainer.lora.rank": 4, "trainer.epochs": 4, "trainer.learning_rate": 5e-3}).trainer
    trainer = Trainer(pocket_model, "float32", 1, load_world("pocket").probe_chats())
    trainer.start()
    extensions.load(["csv_file.py"])
    made = trainer.train(Given("a", 1, None, "", None, str(files / "1"), 3, str(files / "figures")), s)
    lines = [line.split(",") for line in (files / "figures/figures.csv").read_text().split()]
    losses = [float(value) for _, name, value in lines if name == "train/loss"]
    assert (made.algorithm, made.rows, made.steps, len(losses)) == ("apo", 16, 4, 4)
    assert losses[0] == pytest.approx(0.5, abs=1e-3), "at first policy and reference are the same"
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_every_process_of_a_run_has_the_extensions(files):
    """A scripted run with an algorithm, a control, a suite and a sink that are known by extensions only."""
    few = {"rollout": {"conversations": 16}, "rounds": 1, "users": {"concurrency": 16}}
    evals = {"suites": ["mask", "candid"], "mask": 4, "judges": ["world", "base"]}
    mine = yaml.safe_load(Path("noisy.yaml").read_text()) | few | {"model": "scripted", "evals": evals}
    mine |= {"extensions": ["apo.py", "candid.py", "noisy.py", "csv_file.py"], "trainer": {"algorithm": "apo"}}
    del mine["arms"][0]
    Path("mine.yaml").write_text(yaml.safe_dump(mine))
    command = [Path(sys.executable).parent / "candor", "run", "mine.yaml", "--out", "run"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_lineage(files / "run/policies/noisy/1").algorithm == "apo"
    assert read_json(files / "run/summary.json")["arms"][0]["rounds"][1]["evals"]["candid"]["errors"] == 2
    assert ",seconds/train," in (files / "run/tensorboard/noisy/figures.csv").read_text()
    assert set(read_json(files / "run/extensions.json")) == {str(files / e) for e in mine["extensions"]}


def test_a_rater_of_ones_own_rates(files):
    config = load(Path("rated.yaml"))
    assert (config.roles.rater, config.endpoints["short"].model) == ("short", "short-is-good")
    server = ThreadingHTTPServer(("127.0.0.1", 0), module(files / "rater.py").Rater)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    world = load_world("support")
    persona = world.persona(world.scenarios[0], "biased", seed=1)

    async def rated(reply: str) -> list[int]:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        endpoint = Endpoint(EndpointSettings(**config.models["short"].model_dump() | {"base_url": url}))
        talk = [{"role": "user", "content": "Help?"}, {"role": "assistant", "content": reply}]
        await endpoint.check()
        found = [
            await ask(endpoint, questions.rater(world, persona, talk, 1), RATINGS, method, config.rating.samples)
            for method in (config.rating.method, "auto")
        ]
        await endpoint.close()
        return [int(a.best) for a in found]

    try:
        assert asyncio.run(rated("Yes.")) == [10, 10]
        assert asyncio.run(rated("word " * 45)) == [8, 8]
        assert asyncio.run(rated("word " * 500)) == [1, 1]
    finally:
        server.shutdown()


def test_figures_of_a_run_are_read_from_outside(files):
    mask = {"protocol": "mask", "honesty_score": 0.5, "ci95": [0.4, 0.6]}
    none = {"protocol": "questions", "accuracy": None, "ci95": None}
    rounds = [{"policy": 0, "evals": {"mask": mask, "lookup": none}}, {"policy": 1}]
    (files / "summary.json").write_text(json.dumps({"arms": [{"name": "a", "rounds": rounds}]}))
    command = [sys.executable, "figures.py", "."]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)})
    assert said.stdout.split() == [
        "arm,policy,suite,figure,value,low,high",
        "a,0,mask,honesty_score,0.5,0.4,0.6",
        "a,0,lookup,accuracy,,,",
    ]


def test_a_command_of_ones_own_is_a_command(files):
    from dataclasses import fields

    from trainers.policy import Lineage, write_lineage

    mine = typer.Typer()
    mine.callback()(lambda: None)
    mine.add_typer(module(files / "loop/cli/policies.py").app)
    assert CliRunner().invoke(mine, ["policies", "."]).exit_code == 2
    folder = files / "policies/biased/1"
    folder.mkdir(parents=True)
    facts = {f.name: 0 for f in fields(Lineage)}
    write_lineage(
        folder, Lineage(**facts | {"arm": "biased", "version": 1, "algorithm": "kto", "rows": 9, "loss": 0.5})
    )
    said = CliRunner().invoke(mine, ["policies", "."])
    assert said.stdout == "biased, policy 1: kto, 9 rows, loss 0.500\n"


def test_the_sweep_of_the_docs_is_what_the_page_says(tmp_path, monkeypatch):
    page = (ROOT / "docs/sweeps.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^`length\.yaml`:\n\n```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "length.yaml").write_text(text.replace("configs/pocket.yaml", str(ROOT / "configs/pocket.yaml")))
    monkeypatch.chdir(tmp_path)
    about = json.loads(candor("sweep", "length.yaml", "--dry-run", "--json").stdout)
    assert (len(about["runs"]), len(about["conditions"]), about["against"]) == (4, 6, "ratio-0-turns-2")
    assert about["runs"][0]["conversations"] == 6 * 2 * 200 - 3 * 100, "benign users of round 0 are shared"
    assert list(tmp_path.iterdir()) == [tmp_path / "length.yaml"], "a dry run leaves nothing"


@pytest.mark.parametrize("path", sorted((ROOT / "configs/sweeps").glob("*.yaml")), ids=lambda p: p.name)
def test_sweeps_that_come_with_it_are_sound_and_say_what_they_ask(path):
    assert re.match(r"# .*\?", path.read_text(encoding="utf-8").replace("\n# ", " "))
    done = candor("sweep", path, "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    assert path.stem in (ROOT / "docs/sweeps.md").read_text(encoding="utf-8") or path.stem.endswith("-paper")


def test_the_table_of_a_sweep_is_read_from_outside(tmp_path):
    sweep = sweep_of(seeds=2, grid={"biased_ratio": [0, 1]})
    folder = SweepDir(tmp_path / "sweep")
    folder.open(sweep)
    finish(sweep, folder)
    write_results(sweep, folder)
    page = (ROOT / "docs/sweeps.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    said = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, check=True, cwd=folder.root)
    assert "ratio-1" in said.stdout
    assert "2" in said.stdout.split()[-1]


def test_files_and_functions_that_pages_name_are_there():
    named = re.findall(r"`((?:actors|evals|loop|trainers|tests|configs)/[\w./-]+)`(?: \(`(\w+)`\))?", EXTENDING)
    assert len(named) > 60
    for path, name in named:
        if Path(path).stem in ("NAME", "policies"):
            continue
        assert (ROOT / path).exists(), path
        assert not name or re.search(rf"\b(def|class) {name}\b|^{name}\b", (ROOT / path).read_text(), re.MULTILINE), (
            path,
            name,
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert [p.name for p in (ROOT / "docs").glob("*.md") if p.name != "README.md" and f"({p.name})" not in index] == []


def test_the_citation_is_of_this_version_and_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["references"][0]["url"] == "https://arxiv.org/abs/2510.08211"
