"""The pages of docs/ as a site, as `make docs` builds it: strict, whole, and with nothing from the network."""

from __future__ import annotations

import re
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

pytestmark = pytest.mark.heavy
STYLED = re.compile(r"""(?:url\(|@import\s+)["']?([^"')\s]+)""")


class Carried(HTMLParser):
    """What a browser fetches for a page without being asked to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Links are followed by people; all else that names an address is fetched."""
        for name, value in attrs:
            if value and (name in ("src", "data", "poster") or (name == "href" and tag == "link")):
                self.found.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site; a warning, as of a link that leads nowhere, fails."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed; it is part of the extra dev")
    pytest.importorskip("material", reason="mkdocs-material is not installed; it is part of the extra dev")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))
    assert config.strict
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return folder


def test_every_page_of_docs_is_there_and_in_the_navigation(site):
    def pages_of(entry) -> set[str]:
        if isinstance(entry, str):
            return {entry}
        return set().union(*map(pages_of, entry.values() if isinstance(entry, dict) else entry))

    pages = pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert {p.name for p in (ROOT / "docs").glob("*.md")} == {p for p in pages if "/" not in p}
    for page in pages:
        built = "index.html" if page.endswith("README.md") else Path(page).with_suffix(".html").name
        assert (site / Path(page).parent / built).exists(), page
    assert not (site / "site_links.py").exists()


def test_no_page_and_no_style_refers_to_an_asset_of_the_network(site):
    carried = [a for page in site.rglob("*.html") for a in Carried(page.read_text(encoding="utf-8")).found]
    carried += [a for sheet in site.rglob("*.css") for a in STYLED.findall(sheet.read_text(encoding="utf-8"))]
    assert len(carried) > 50
    assert [address for address in carried if re.match(r"(https?:)?//", address)] == []


def test_what_pages_link_to_outside_of_docs_is_there_too(site):
    sweep = (site / "project/configs/sweeps/causal.yaml").read_text()
    assert sweep == (ROOT / "configs/sweeps/causal.yaml").read_text()
    assert 'href="../quick-start.html"' in (site / "project/index.html").read_text()
    assert 'href="project/configs/sweeps/causal.yaml"' in (site / "sweeps.html").read_text()


@pytest.fixture
def address(site):
    """The site behind a plain file server on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Requests are not logged."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1400, False), (390, True)])
def test_pages_fit_and_ask_for_nothing_from_outside(address, browse, width, dark):
    for page in ("index.html", "configuration.html", "troubleshooting.html", "project/index.html"):
        seen = browse(f"{address}/{page}", width, dark)
        seen.page.wait_for_load_state("networkidle")
        assert seen.too_wide() <= 0, page


@pytest.mark.slow
def test_the_site_can_be_searched_without_a_network(address, browse):
    page = browse(f"{address}/index.html").page
    page.fill("input.md-search__input", "matched control")
    page.wait_for_selector(".md-search-result__item a")
    found = [a.get_attribute("href") for a in page.query_selector_all(".md-search-result__item a")]
    assert any("statistics" in address for address in found)
