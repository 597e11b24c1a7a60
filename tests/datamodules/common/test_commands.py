"""Options become flags and help; mistakes become one line."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.audit.__main__ import COMMAND as AUDIT
from datamodules.common.commands import Command, main, parse
from datamodules.demo.__main__ import COMMAND as DEMO
from datamodules.pack.__main__ import COMMANDS as PACK
from tests.datamodules.common.commanding import MODULE, Options, Shape

COMMAND = Command(MODULE, Options, ("numbers", "out"))
REPOSITORY = Path(__file__).parents[3]


def options(text):
    return parse("program", COMMAND, text.split())


def test_words_become_options():
    there = {"out": Path("there"), "shape": Shape(9), "quiet": True}
    assert options("1 2 there") == Options(out=Path("there"), numbers=[1, 2])
    words = "1 there --kind bold --sizes 3 --scale 2 --seed 4 --quiet true --shape.width 9"
    assert options(words) == Options(numbers=[1], kind="bold", sizes=[3], scale=2, seed=4, **there)


def test_paths_may_have_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert options("1 2 ~/there").out == Path("/home/me/there")


def test_a_flag_alone_switches_on():
    assert options("--quiet 1 there").quiet
    assert options("1 there --quiet").quiet
    assert not options("1 there --quiet false").quiet


def test_a_list_given_by_position_may_be_empty_if_it_has_a_default():
    command = Command(MODULE, Options, ("sizes",))
    for words, sizes in [([], []), (["3"], [3]), (["3", "4"], [3, 4])]:
        assert parse("program", command, [*words, "--out", "x", "--numbers", "1"]).sizes == sizes


def test_options_travel_to_other_processes():
    found = options("1 2 there --sizes 3 --shape.width 9")
    assert {type(n) for n in (*found.numbers, *found.sizes, found.shape.width)} == {int}
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("1", "the following arguments are required: out"),
        ("1 there --kind large", "--kind large: choose from plain, bold"),
        ("1 there --sizes 0", "--sizes 0: it must be more than 0"),
        ("1 there --seed -1", "--seed -1: it must be at least 0"),
        ("1 there --seed x", "--seed x: it must be a whole number"),
        ("1 there --scale x", "--scale x: it must be a number"),
        ("1 there --limit x", "--limit x: it must be a number"),
        ("1 there --quiet=x", "--quiet x: it must be true or false"),
        ("1 there --shape.width 1.5", "--shape.width 1.5: it must be a whole number"),
        ("1 there --siz 1", "unrecognized arguments: --siz 1"),
    ],
)
def test_wrong_words_are_one_line(capsys, words, message):
    with pytest.raises(SystemExit) as caught:
        options(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: {message}; see program --help\n"


def test_help_has_the_docstrings_the_choices_and_the_defaults(capsys):
    with pytest.raises(SystemExit) as caught:
        options("--help")
    assert caught.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in (
        "NUMBERS [NUMBERS ...] OUT Prints the numbers it is given. Each on a line of its own.",
        "NUMBERS Numbers to print, in this order. OUT Where to.",
        "--kind {plain,bold} How to print them.",
        "--sizes N [N ...] Sizes of the letters. --",
        "--scale X A factor. (default: 1.5)",
        "--seed N Seed of everything. (default: 0)",
        "Columns. (default: 80)",
    ):
        assert text in out


def test_help_is_as_wide_as_the_terminal_but_never_breaks_a_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        options("--help")
    lines = capsys.readouterr().out.splitlines()
    path = "a/path/that-is-long/and-must-not-be-broken/whatever-the-width-of-the-terminal"
    example = f"  program print 1 2 3 {path}"
    assert example in lines
    assert max(len(line) for line in lines if line != example) <= 80
    assert "They are numbers from mathematics, and so there are many of them, more than" in lines
    (item,) = (at for at, line in enumerate(lines) if line.startswith("* whole: one"))
    assert re.fullmatch(r"  \w.* and zero\.", lines[item + 1])


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        ("7 there", 0, ""),
        ("6 there", 1, ""),
        ("1 there", 2, "error: no such number: 1\n"),
        (
            "2 there",
            2,
            "error: table: No such file; see whether it was removed, or its disk unmounted\n",
        ),
        (
            "3 there",
            2,
            "error: table: No space left on device; make room and run the same command again\n",
        ),
        ("4 there", 130, "come back\n"),
        ("9 there", 2, "error: this machine has too little memory; give less at once\n"),
        ("5 there", 143, "come back\n"),
    ],
)
def test_how_a_command_ends(capsys, words, code, error):
    assert main("program", COMMAND, words.split(), "come back") == code
    assert main("program", {"print": COMMAND}, ["print", *words.split()], "come back") == code
    assert capsys.readouterr().err == 2 * error


def test_a_warning_is_one_line(capsys):
    assert main("program", COMMAND, ["8", "there"]) == 0
    assert capsys.readouterr().err == "warning: there are few\n"


def test_whoever_reads_the_output_may_leave():
    """Whether the page of help fits into the buffer of the output (wide lines) or not."""
    for words, columns in (([], 80), (["imagefolder", "--help"], 80), (["verify", "--help"], 200)):
        command = [sys.executable, "-m", "datamodules.pack", *words]
        environment = {**os.environ, "COLUMNS": str(columns)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, cwd=REPOSITORY, env=environment, **pipes) as running:
            running.stdout.close()
            assert running.stderr.read() == b""


def test_a_program_lists_its_commands(capsys):
    commands = {"print": COMMAND}
    assert main("program", commands, ["--help"]) == 0
    assert main("program", commands, []) == 2
    assert capsys.readouterr().out.count("  print  Prints the numbers it is given\n") == 2
    assert main("program", commands, ["prin"]) == 2
    error = "error: program has no command 'prin': choose from print\n"
    assert capsys.readouterr().err == error


@pytest.mark.parametrize(
    ("program", "command"),
    [("audit", AUDIT), ("demo", DEMO), *((f"pack {name}", PACK[name]) for name in PACK)],
)
def test_each_command_describes_all_its_flags_and_has_examples(capsys, program, command):
    with pytest.raises(SystemExit):
        parse(f"python -m datamodules.{program}", command, ["--help"])
    out = capsys.readouterr().out
    description, _, arguments = out.partition("positional arguments:")
    assert f"  python -m datamodules.{program} " in description.partition("example")[2]
    assert max(map(len, description.partition("\n\n")[2].splitlines())) <= 80
    lines = arguments.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("  --"):  # the help begins beside the flag or below it
            assert "  " in line.strip() or following.startswith(" " * 10), line


def test_help_imports_nothing_heavy():
    program = (
        "import sys\n"
        "from datamodules.common.commands import main\n"
        "from datamodules.audit.__main__ import COMMAND as audit\n"
        "from datamodules.demo.__main__ import COMMAND as demo\n"
        "from datamodules.pack.__main__ import COMMANDS as pack\n"
        "for command in (audit, demo, *pack.values()):\n"
        "    try: main('program', command, ['--help'])\n"
        "    except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'rich', 'fsspec', 'webdataset'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
