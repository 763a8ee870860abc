"""Runs Markdown pages: their Python in one namespace, and their commands, and compares the output.

A block ```` ```text ```` directly after code is the output of that code; `...` in it matches anything.
"""

import contextlib
import doctest
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from checkout import ROOT
from click.testing import CliRunner
from markdown_it import MarkdownIt

from kerassplit.cli import main

EXTRAS = re.compile(r"^([\w-]+) = \[", re.MULTILINE)
ANYTHING = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
COMPUTERS = ("python", "sh", "console")


@dataclass(frozen=True)
class Block:
    """A block of code on a page.

    Attributes:
        language: Text after the backticks.
        code: Its lines.
        line: Its first line on the page.
        printed: Its output according to the page, if shown.
    """

    language: str
    code: str
    line: int
    printed: str | None


def blocks(page: Path, *languages: str) -> list[Block]:
    """Returns the blocks of a page in these languages, in order."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    fences = [
        (token, following.content if following is not None and following.info == "text" else None)
        for token, following in zip(tokens, [*tokens[1:], None], strict=True)
        if token.type == "fence" and token.map
    ]
    return [
        Block(token.info, token.content, token.map[0] + 1, printed)
        for token, printed in fences
        if token.map and token.info in languages
    ]


def commands(block: Block) -> Iterator[list[str]]:
    """Returns the commands in a block, without prompts and comments."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words:
            yield words


def run_page(page: Path) -> dict[str, Any]:
    """Runs all code of a page in the working directory, and returns the names that its Python defined."""
    keras.utils.clear_session()  # so that Keras counts names from the start, as in a process of one's own
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page, *COMPUTERS):
        printed = io.StringIO()
        try:
            if block.language == "python":
                # Lines count as on the page, so that an error names the line of the page.
                code = compile("\n" * block.line + block.code, str(page), "exec")
                with contextlib.redirect_stdout(printed):
                    exec(code, names)
            else:
                for words in commands(block):
                    printed.write(run_command(words))
        except Exception as error:
            error.add_note(f"{page.name}, line {block.line}")
            raise
        if block.printed is not None:
            got = printed.getvalue()
            fits = doctest.OutputChecker().check_output(block.printed, got, ANYTHING)
            assert fits, f"{page.name}, line {block.line}, should print:\n{block.printed}\nand prints:\n{got}"
    return names


def run_command(words: list[str]) -> str:
    """Runs one command of a page, `kerassplit` in this process, and returns its standard output."""
    if words[:2] == [
        "pip",
        "install",
    ]:  # what it would install is here already; that there is such an extra, is checked
        extras = EXTRAS.findall((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        named = [extra for word in words for found in re.findall(r"\[(.+)\]", word) for extra in found.split(",")]
        assert set(named) <= set(extras), named
        return ""
    if words[0] == "kerassplit":
        result = CliRunner().invoke(main, words[1:])
        assert result.exit_code == 0, (words, result.output, result.exception)
        return result.stdout
    assert words[0] == "python", f"nobody runs {words}"
    return subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True, text=True, timeout=300).stdout
