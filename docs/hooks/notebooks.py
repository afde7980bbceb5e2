"""Hook of mkdocs: the tutorials are run as notebooks, and their pages show what came out.

A tutorial is Markdown that jupytext reads as a notebook: blocks of `python` and `sh` are its cells, anything
else is text. Each runs in a kernel and an empty folder of its own, and an error in one ends the build. The
finished notebook lies beside its page, to be downloaded.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbclient import NotebookClient

FOLDER = "tutorials/"
PARALLEL = 2
CELL_SECONDS = 900
KERNEL = """---
jupyter:
  kernelspec:
    display_name: Python 3
    language: python
    name: python3
---
"""
"""Without it jupytext takes the language that most blocks have."""

notebooks: dict[str, nbformat.NotebookNode] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Run the tutorials, and add their notebooks to the site."""
    pages = [file for file in files.documentation_pages() if file.src_uri.startswith(FOLDER)]
    with ThreadPoolExecutor(PARALLEL) as pool:
        run = list(pool.map(lambda file: execute(file.content_string), pages))
    for file, notebook in zip(pages, run, strict=True):
        notebooks[file.src_uri] = notebook
        files.append(File.generated(config, download(file.src_uri), content=nbformat.writes(notebook)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page of a tutorial: its cells, with what came out of each."""
    notebook = notebooks.get(page.file.src_uri)
    if notebook is None:
        return markdown
    title, *cells = [show(cell) for cell in notebook.cells]
    heading, _, text = title.partition("\n")
    link = f"[Download this page as a notebook]({Path(download(page.file.src_uri)).name}){{ download }}"
    return "\n\n".join([heading, link, text, *cells])


def download(page: str) -> str:
    """Where the notebook of a page lies."""
    return page.removesuffix(".md") + ".ipynb"


def execute(text: str) -> nbformat.NotebookNode:
    """The notebook of a tutorial, run from top to bottom; raises `CellExecutionError`."""
    notebook = jupytext.reads(KERNEL + text, fmt="md")
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": programs, "COLUMNS": "100", "NEURALMM_QUIET": "1"}
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            coalesce_streams=True,
            extra_arguments=["--IPKernelApp.log_level=40"],  # no warnings of the kernel's own
            resources={"metadata": {"path": folder}},
        )
        client.execute(env=environment)
    return notebook


def show(cell: nbformat.NotebookNode) -> str:
    """A cell as Markdown."""
    if cell.cell_type == "markdown":
        return cell.source
    code, language = cell.source, "python"
    if code.startswith("%%sh\n"):
        code, language = code.removeprefix("%%sh\n"), "sh"
    parts = [f"```{language}\n{code}\n```"]
    return "\n\n".join([*parts, *(shown for output in cell.outputs if (shown := result(output)))])


def result(output: Any) -> str:
    """What a cell printed or drew; progress and notices, which go to standard error, are left out."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"![What the code above draws](data:image/png;base64,{data['image/png'].replace(chr(10), '')})"
    if "text/html" in data and "<table" in data["text/html"]:
        return re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL)
    text = data.get("text/plain") or (output.get("text", "") if output.get("name") == "stdout" else "")
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).strip("\n")
    return f"```{{ .text .output }}\n{text}\n```" if text else ""
