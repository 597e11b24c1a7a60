"""What `make docs` does before MkDocs builds the site: pages stay where GitHub shows them.

MkDocs wants all pages in one folder. Here the site has the files of the repository at their own
places, so a link that works on GitHub works in the site.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = ("*.md", "docs/*.md", "slurm/*.md", "benchmarks/*.md")
NOTEBOOKS = "docs/notebooks/*.ipynb"
LINK = re.compile(r"""(?:\]\(|src(?:set)?=["'])([^)"'#:\s]+)""")
DIRECTIVE = re.compile(r"<!-- (::: .*?) -->", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of docs/ by all pages, the notebooks, and the files that pages link to."""
    pages = {path for pattern in PAGES for path in ROOT.glob(pattern)}
    linked = {path for page in pages for path in _links(page)}
    linked |= set(ROOT.glob("docs/*.css"))
    found = [
        File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path))
        for path in sorted(pages | linked)
    ]
    for path in sorted(ROOT.glob(NOTEBOOKS)):
        name = str(path.relative_to(ROOT).with_suffix(".md"))
        found.append(File.generated(config, name, content=_as_markdown(path)))
    return Files([*found, *(file for file in files if file.src_dir != config.docs_dir)])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let mkdocstrings see what GitHub's readers need not see, and link to the notebooks' pages."""
    return DIRECTIVE.sub(r"\1", markdown).replace(".ipynb)", ".md)")


def _links(page: Path) -> Iterator[Path]:
    """The files in the repository that a page links to."""
    for target in LINK.findall(page.read_text()):
        path = (page.parent / target).resolve()
        if path.is_file() and path.is_relative_to(ROOT) and path.suffix != ".ipynb":
            yield path


def _as_markdown(notebook: Path) -> str:
    """A notebook's text, code, what the code printed, and its pictures."""
    parts = []
    for cell in json.loads(notebook.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if png := data.get("image/png"):
                parts.append(f'<img alt="" src="data:image/png;base64,{"".join(png).strip()}">')
            else:
                parts.append(f"```text\n{''.join(data['text/plain'])}\n```")
    return "\n\n".join(parts)
