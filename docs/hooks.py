"""Hooks of the documentation site: pages that are files of the repository, links to its files, formulas as MathML."""

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "plugins/README.md": "extend.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Files of the repository -> the pages of the site that show them."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)#\s]+)((?:#[^)\s]*)?)(?=\))")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([\[(])(.*?)\\[\])]</\1>', re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages whose text is a file of the repository."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Leads links, which are those of the repository, to pages; other files of the repository are copied as text."""
    sources = {shown: source for source, shown in PAGES.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def led(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        if (ROOT / path).is_dir():
            path = next((f"{path}/{name}" for name in ("README.md", "index.md") if (ROOT / path / name).exists()), path)
        if path in PAGES:
            target = PAGES[path]
        elif path.startswith("docs/"):
            target = path.removeprefix("docs/")
        elif (ROOT / path).is_file():
            target = f"source/{path}.txt"  # browsers show it, whatever the file's own ending is
            if files.get_file_from_path(target) is None:
                files.append(File.generated(config, target, content=(ROOT / path).read_text(encoding="utf-8")))
        else:
            return link[0]  # `--strict` names it
        return posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".") + link[2]

    return LINK.sub(led, markdown)


def on_page_content(html_of_page: str, **_: Any) -> str:
    """Writes formulas as MathML, which browsers render by themselves, and keeps numbers whole."""

    def drawn(formula: re.Match[str]) -> str:
        drawn = convert(html.unescape(formula[3]), display="block" if formula[2] == "[" else "inline")
        drawn = re.sub(
            r"<m[io]>&#x02016;</m[io]>", '<mo stretchy="false">&#x02016;</mo>', drawn
        )  # ‖, as high as a letter
        # the space after an operator's name, which LaTeX has
        return re.sub(r"(<mi>(?:log|max|min|softplus|KL)</mi>)", r'\1<mspace width="0.17em"></mspace>', drawn)

    return FORMULA.sub(drawn, html_of_page).replace(" ± ", "\u00a0±\u00a0")  # a number and its spread stay on one line
