"""The code blocks of docs/library.md run, one after the other, as they are printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "library.md"


@pytest.mark.filterwarnings("ignore")
def test_the_examples_of_the_page_run(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("shards").symlink_to(shards)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        code = block.replace("batch_size=32,", "batch_size=32, workers=0,")
        exec(compile(code, str(PAGE), "exec"), names)  # the page is ours
    assert names["probabilities"].shape == (64, 6)
    assert names["maps"].shape == (4, 1, 32, 32)
    assert "class" in capsys.readouterr().out.splitlines()[-1]
    assert Path("mine.safetensors").is_file()
