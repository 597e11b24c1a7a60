"""docs/troubleshooting.md quotes messages as the code prints them, so that people find them."""

from __future__ import annotations

import ast
import re

import pytest

from tests.test_project import REPOSITORY

PAGE = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
QUOTED = [
    line
    for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    for line in block.split("\n")
]
MESSAGES = sorted({line for line in QUOTED if line})
"""Each is a part of a message: a line of the page, with `…` for a value or for what is left out."""


def texts() -> str:
    """All strings of the source, with `…` for each value in them."""
    found = []
    for package in ("bagnet", "datamodules"):
        for file in (REPOSITORY / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = (
                        each.value if isinstance(each, ast.Constant) else "…"
                        for each in node.values
                    )
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return re.sub("(…|%[sd])+", "…", "\n".join(found))


@pytest.fixture(scope="module")
def source() -> str:
    return texts()


def test_the_page_quotes_messages():
    assert len(MESSAGES) >= 20


@pytest.mark.parametrize("message", MESSAGES)
def test_each_quoted_message_is_in_the_source(message, source):
    assert message.strip("… ") in source
