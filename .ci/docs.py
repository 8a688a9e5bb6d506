"""The hook of mkdocs: the README is the start page; files that the documents link to are part of the site."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
_LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./|docs/)?[\w./-]+)((?:#[\w-]*)?)\)")


def on_files(files: Any, config: Any) -> Any:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    folder = ROOT if page.file.src_uri in PAGES.values() else ROOT / "docs"

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found.groups()
        path = (folder / target).resolve()
        if path.suffix == ".md":
            name = PAGES.get(str(path.relative_to(ROOT)), path.name)
            return f"[{text}]({name}{anchor})"
        if not path.is_file():
            return text  # a folder
        name = str(path.relative_to(ROOT))
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, content=path.read_bytes()))
        return f"[{text}]({name}{anchor})"

    return _LINK.sub(link, markdown)
