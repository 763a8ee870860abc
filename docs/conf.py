"""Sphinx configuration: `pip install -e ".[docs]" && sphinx-build -W docs build/docs`."""

import os
import re
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import kerassplit
from kerassplit.cli import main
from kerassplit.zoo import load_model

project = "kerassplit"
author = "the kerassplit developers"
version = release = kerassplit.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "myst_parser",
]
exclude_patterns = ["pictures/*.py"]
root_doc = "index"

html_theme = "furo"
html_title = "kerassplit"
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

add_module_names = False
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

suppress_warnings = ["ref.python"]  # `bytes` is both a type and an attribute of several classes
# Types from other packages are not linked, because the pages are built without a network.
nitpick_ignore_regex = [("py:class", r"(collections|keras|matplotlib|numpy|os|pandas|pathlib|ray|typing)\..*|Figure")]


ARCHITECTURES = ("MobileNetV2", "ResNet50", "DenseNet121", "EfficientNetB0")
"""Those in `diagrams/`; the documentation has a page to explore each."""


class ArchitecturePages(SphinxDirective):
    """Links the pages that `write_pages` writes."""

    def run(self) -> list[nodes.Node]:
        links = ", ".join(f'<a href="../pages/{name.lower()}.html">{name}</a>' for name in ARCHITECTURES)
        return [nodes.raw("", f"<p>Pages to try: {links}.</p>", format="html")]


class CommandHelp(SphinxDirective):
    """Inserts the output of `kerassplit --help` and each `kerassplit COMMAND --help`, one section per command."""

    def run(self) -> list[nodes.Node]:
        group = click.Context(main, info_name="kerassplit", max_content_width=80, terminal_width=80, show_default=True)
        pages = [f"```text\n{main.get_help(group)}\n```\n"]
        for name in main.list_commands(group):
            context = click.Context(main.commands[name], parent=group, info_name=name)
            pages.append(f"## kerassplit {name}\n\n```text\n{main.commands[name].get_help(context)}\n```\n")
        return self.parse_text_to_nodes("\n".join(pages), allow_section_headings=True)


def code_in_backticks(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Converts Markdown in docstrings: text in single backticks is code, even before an "s"."""
    lines[:] = [re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``\\ ", line) for line in lines]


def write_pages(app: Sphinx, error: Exception | None) -> None:
    """Writes a page to explore each architecture beside the documentation."""
    if error is None and app.builder.format == "html":
        folder = Path(app.outdir) / "pages"
        folder.mkdir(exist_ok=True)
        for name in ARCHITECTURES:
            kerassplit.plot(load_model(name), folder / f"{name.lower()}.html", title=name)


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", code_in_backticks, priority=400)  # before napoleon
    app.add_directive("command-help", CommandHelp)
    app.add_directive("architecture-pages", ArchitecturePages)
    app.connect("build-finished", write_pages)
