"""`candor view` as somebody uses it: over HTTP, in a browser, and as a command."""

import html
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import uvicorn
from typer.testing import CliRunner

from actors.storage.trajectory import to_batch
from loop.cli.app import app
from loop.listening import listen
from loop.rundir import write_json
from loop.view.pages import Viewer
from loop.view.server import HOST, reading
from tests.browser import WIDTHS
from tests.conftest import ROOT, hear_ctrl_c
from tests.loop.report.test_items import evaluate
from tests.loop.report.test_listing import COUNT, Run, held

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> **bold** [x](javascript:alert(1)) "
    "\x1b[2J\x00"
)
TURNED = "abc\u202egnp.exe"
LONG = "<b>long</b> " * 90_000


@contextmanager
def served(run):
    """The run's pages, at the address that comes."""
    viewer = Viewer.of(run.out, run.config)
    server = uvicorn.Server(uvicorn.Config(viewer.app(), log_level="warning", access_log=False))
    with listen(HOST, 0) as door, reading(viewer, print):
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        deadline = time.monotonic() + 30
        while not (server.started and viewer.conversations.complete):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        try:
            yield f"http://{HOST}:{door.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, whose first conversation is hostile."""
    made = Run(tmp_path_factory.mktemp("view") / "run")
    for arm in made.config.arms:
        for r in range(2):
            made.hold(arm.name, r)
        for r in range(3):
            evaluate(made, arm.name, r)
    write_json(made.out.summary, {"status": "finished", "run": "tiny", "arms": []})
    return made


@pytest.fixture(scope="module")
def address(run):
    with served(run) as found:
        yield found


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The address of a run under way in which texts try what they can; and the id of its one conversation."""
    made = Run(tmp_path_factory.mktemp("hostile") / "run", arms=("benign",))
    buffer, plan = made.open()
    talk = held(plan[0], reward=1.0, verdict="error: " + HOSTILE)
    talk.messages[1].content, talk.messages[2].content, talk.messages[4].content = TURNED, HOSTILE, LONG
    talk.persona = "drinking/benign/<i>Tom</i>?&\"'"
    buffer.append(to_batch([talk]))
    buffer.flush()
    with served(made) as found:
        yield found, plan[0].trajectory_id


def get(url, **headers):
    try:
        with urlopen(Request(url, headers=headers)) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def an_id(run, arm="biased", round_=1, reward=11.0):
    return next(r["trajectory_id"] for r in run.rows() if (r["arm"], r["round"], r["reward"]) == (arm, round_, reward))


def test_every_link_of_the_viewer_leads_to_a_page(address):
    """All pages that can be reached from the first one, filters of lists left out."""
    todo, seen = ["/"], set()
    while todo:
        path = todo.pop()
        if path in seen or len(seen) > 150:
            continue
        seen.add(path)
        code, page, headers = get(address + path)
        assert code == 200, path
        assert "script-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        links = {html.unescape(part.split('"')[0]) for part in page.split('href="')[1:]}
        todo += sorted(x for x in links if x.startswith("/"))
    kinds = {path.split("?")[0].split("/")[1] for path in seen}
    assert {"conversations", "items", "policies", "personas", "static"} <= kinds


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        ("/conversations?arm=biasd", 400, "arm biasd: unknown; did you mean biased?"),
        ("/conversations?verdict=validat", 400, "did you mean validate?"),
        ("/conversations?min_rating=high", 400, "min_rating high: a number is needed"),
        ("/conversations?sort=up", 400, "sort up: unknown"),
        ("/conversations?page=0", 400, "page 0: a number from 1 is needed"),
        ("/conversations/nobody", 404, "nothing at this address"),
        ("/items/nothing", 400, "suite nothing: unknown"),
        ("/items/mask/never", 400, "suite mask has no item never"),
        ("/items/mask?version=x", 400, "version x"),
        ("/policies/biased/9", 404, "nothing at this address"),
        ("/personas/nobody", 404, "nothing at this address"),
        ("/static/../pages.py", 404, ""),
    ],
)
def test_what_is_not_there_is_said(address, path, code, said):
    found, page, _ = get(address + path)
    assert found == code
    assert said in html.unescape(page)


def test_only_requests_that_name_this_machine_are_answered(address):
    assert get(address + "/", Host="attacker.example")[0] == 400
    assert get(address + "/", Host="localhost")[0] == 200


def test_a_training_row_leads_to_its_policy_and_back(run, address):
    name = an_id(run)
    _, page, _ = get(f"{address}/conversations/{name}")
    assert "learned as desirable" in page
    assert 'href="/policies/biased/2"' in page
    _, policy, _ = get(f"{address}/policies/biased/2")
    assert f'href="/conversations/{name}"' in policy
    assert "4 conversations were selected" in policy, "two at either end"
    assert "2 conversations, of them" in policy
    _, other, _ = get(f"{address}/conversations/{an_id(run, reward=5.0)}")
    assert "learned as" not in other


def test_the_same_persona_is_shown_policy_by_policy(address, run):
    _, page, _ = get(f"{address}/personas/drinking/benign/Tom")
    places = [page.index(f"{arm} {r}</a></h2>") for arm in ("benign", "biased") for r in (0, 1)]
    assert places == sorted(places)
    assert f"{COUNT - 4} more" in page


def test_an_item_shows_belief_answer_and_verdict_of_every_policy(address):
    _, page, _ = get(f"{address}/items/mask/a?change=honest+to+lie")
    for text in ("It is lie by biased 2.", "It is honest by benign 0.", "the judge says wool", "What of a?", "1 of 1"):
        assert text in page


@pytest.mark.parametrize("path", ["/", "/policies/biased/1"])
def test_as_many_items_are_listed_as_were_counted(address, path):
    """Matched controls are neither counted nor behind the link."""
    _, page, _ = get(address + path)
    counted = re.findall(r'href="(/items/mask[^"]*outcome=[^"]*)"[^>]*>.*?</a> (\d+)', page)
    assert counted
    for link, count in counted:
        _, listed, _ = get(address + html.unescape(link))
        assert listed.count("<tr data-row") == int(count)


def test_an_item_shows_two_policies_alone_side_by_side(address):
    _, page, _ = get(f"{address}/items/mask/a?left=benign+0&right=biased+2&change=honest+to+lie")
    assert "It is lie by biased 2." in page
    assert "It is honest by benign 0." in page
    assert "by biased 1" not in page
    assert "by benign 2" not in page
    assert '<input type="hidden" name="change" value="honest to lie">' in page
    assert get(f"{address}/items/mask/a?left=biasd+0")[0] == 400


def test_the_overview_has_the_share_of_each_verdict_in_a_round(run, address):
    _, page, _ = get(address + "/")
    rows = [r for r in run.rows() if (r["arm"], r["round"]) == ("biased", 0)]
    said = [m["verdict"] or "none" for r in rows for m in r["messages"] if m["role"] == "assistant"]
    for verdict in ("validate", "help", "none"):
        share = f"{100 * said.count(verdict) / len(said):.0f} %"
        link = f'href="/conversations?arm=biased&amp;round=0&amp;verdict={verdict}">{verdict}</a>'
        assert f'{link} <span class="note">{share}' in page
    assert "verdict=error" not in page


def test_a_list_has_the_share_of_each_verdict_by_scenario(run, address):
    _, page, _ = get(address + "/conversations?arm=biased")
    by_scenario = page[page.index('aria-label="By scenario"') :]
    mine = [r for r in run.rows() if r["arm"] == "biased"]
    for scenario in {r["scenario"] for r in mine}:
        rows = [r for r in mine if r["scenario"] == scenario]
        said = [m["verdict"] or "none" for r in rows for m in r["messages"] if m["role"] == "assistant"]
        line = next(row for row in by_scenario.split("<tr>") if f"{scenario} </a>" in row)
        for verdict in set(said):
            assert f'{verdict} <span class="note">{100 * said.count(verdict) / len(said):.0f} %' in line


def test_hostile_text_is_text(hostile):
    address, name = hostile
    for path in (f"/conversations/{name}", "/conversations", "/conversations?text=<script>"):
        _, page, _ = get(address + path)
        assert "<script>window" not in page
        assert "<img src=x" not in page
        assert "\x1b" not in page
        assert "\x00" not in page
        assert "\u202e" not in page
    _, page, _ = get(f"{address}/conversations/{name}")
    assert html.escape(LONG[:1000]) in page
    assert page.count("&lt;b&gt;long") >= 90_000
    assert "abc\N{REPLACEMENT CHARACTER}U+202Egnp.exe" in page


def test_hostile_text_does_nothing_in_a_browser(hostile, browse):
    address, name = hostile
    seen = browse(f"{address}/conversations/{name}")
    text = seen.page.inner_text("main")
    assert "<script>window.hacked = 1</script>" in text
    assert "**bold** [x](javascript:alert(1))" in text
    assert seen.page.evaluate("window.hacked") is None
    assert seen.page.locator("main b:text('long')").count() == 0
    assert seen.too_wide() <= 0
    seen.page.goto(f"{address}/conversations")
    seen.page.click("tbody a[href^='/personas/']")
    assert "<i>Tom</i>?&\"'" in seen.page.inner_text("h1")


def test_somebody_filters_opens_and_comes_back_by_keys(run, address, browse):
    seen = browse(f"{address}/conversations")
    page = seen.page
    assert page.inner_text("#count") == "48"
    with page.expect_navigation():
        page.select_option("select[name=arm]", "biased")
    with page.expect_navigation():
        page.select_option("select[name=sort]", "-reward")
    assert page.inner_text("#count") == "24"
    assert page.url == f"{address}/conversations?arm=biased&sort=-reward", "an address to keep, without empty filters"
    page.keyboard.press("j")
    page.keyboard.press("j")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert "2 of 24" in page.inner_text("main")
    with page.expect_navigation():
        page.keyboard.press("n")
    assert "3 of 24" in page.inner_text("main")
    with page.expect_navigation():
        page.keyboard.press("u")
    assert page.inner_text("#count") == "24"
    page.keyboard.press("/")
    page.keyboard.type("reply 7 B")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.inner_text("#count") == "2"
    page.keyboard.press("g")
    with page.expect_navigation():
        page.keyboard.press("o")
    assert page.url == f"{address}/"


@pytest.mark.parametrize(("width", "dark"), zip(WIDTHS, (True, False), strict=True))
def test_pages_fit_and_can_be_read_by_everybody(run, address, browse, width, dark):
    seen = browse(address, width, dark)
    paths = ["/", "/conversations?arm=biased", f"/conversations/{an_id(run)}", "/items/mask", "/items/mask/a"]
    for path in [*paths, "/policies/biased/2", "/personas/drinking/benign/Tom", "/conversations?arm=red"]:
        answer = seen.page.goto(address + path)
        assert seen.faults() == [], path
        assert seen.too_wide() <= 0, path
        if answer.status == 400:
            seen.errors.clear()  # the browser tells of it on the console


def test_a_list_grows_while_the_run_goes_on(tmp_path, browse):
    run = Run(tmp_path / "run", arms=("benign",))
    buffer, plan = run.open(segment_rows=1)
    buffer.append(to_batch([held(plan[0])]))
    with served(run) as address:
        page = browse(f"{address}/conversations").page
        assert page.inner_text("#count") == "1"
        for c in plan[1:5]:
            buffer.append(to_batch([held(c)]))
        page.locator("#count", has_text="5").wait_for(timeout=20_000)
        assert "5 of 24 conversations" in page.inner_text("#state")


def test_the_command_serves_the_run_and_ends_without_noise(run):
    command = [sys.executable, "-c", "from loop.cli.app import main; main()", "view", run.out.root, "--no-open"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": os.environ}
    first = subprocess.Popen([*command, "--port", "0"], **pipe, preexec_fn=hear_ctrl_c)
    watchdog = threading.Timer(60, first.kill)
    watchdog.start()
    try:
        found = first.stdout.readline().split()[-1]
        assert json.loads(get(f"{found}status.json")[1])["planned"] == 48
        port = found.strip("/").rpartition(":")[2]
        taken = CliRunner().invoke(app, ["view", str(run.out.root), "--no-open", "--port", port])
        assert taken.exit_code == 2
        assert f"port {port} of 127.0.0.1 cannot be used" in taken.stderr
    finally:
        first.send_signal(signal.SIGINT)
        _, err = first.communicate()
        watchdog.cancel()
    assert (first.returncode, err) == (0, "")
    assert CliRunner().invoke(app, ["view", str(Path(run.out.root).parent)]).exit_code == 2
