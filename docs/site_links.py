"""Files outside of docs/ that pages link to, for the site: each is put under `project/`, and links are turned there.

In the repository a page says `../configs/pocket.yaml`, which GitHub follows. The site has docs/ as its root, so there
the same file is `project/configs/pocket.yaml`. README, CONTRIBUTING and CHANGELOG become pages, all else stays a file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "project"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s]+)")
"""The address of a Markdown link or picture that stays in the repository."""
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def on_files(files: Files, config: Any) -> Files:
    """Add every file outside of docs/ that a page links to."""
    pages = [ROOT / name for name in PAGES]
    pages += [Path(f.abs_src_path) for f in files.documentation_pages()]
    linked = {
        (page.parent / address.partition("#")[0]).resolve()
        for page in pages
        for address in LINK.findall(page.read_text(encoding="utf-8"))
    }
    docs = Path(config.docs_dir)
    for path in sorted({*pages, *linked}):
        if path.is_file() and path.is_relative_to(ROOT) and not path.is_relative_to(docs):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, f"{FOLDER}/{name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links out of docs/ to `project/`, and those of pages there into docs/ back."""
    src = page.file.src_uri
    if src.startswith(f"{FOLDER}/"):
        return LINK.sub(lambda found: re.sub(r"^docs/", "../", found[0]), markdown)
    return LINK.sub(lambda found: re.sub(r"^\.\./", f"{FOLDER}/", found[0]), markdown)
