"""Lists of classes, in the forms that people have them."""

from __future__ import annotations

import codecs
import json

import pytest

from datamodules.pack.classes import names_of, read_class_list

IDS, NAMES = ("n01", "n02"), ("tench, Tinca tinca", "goldfish")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("n01\ttench, Tinca tinca\nn02\tgoldfish\n", IDS),
        ("0\tn01\ttench, Tinca tinca\n1\tn02\tgoldfish", IDS),
        ("n01 tench, Tinca tinca\n\nn02 goldfish\n", IDS),
        ("tench, Tinca tinca\ngoldfish\n", ()),
        ("\ufefftench, Tinca tinca\r\ngoldfish\r\n", ()),
        ('"n01"\t"tench, Tinca tinca"\r\n"n02"\tgoldfish\r\n', IDS),
        ("\ufeff" + json.dumps({"classes": IDS, "class_names": NAMES}), IDS),
        (json.dumps({str(n): (IDS[n], NAMES[n]) for n in (1, 0)}), IDS),
    ],
    ids=["tab", "numbered", "space", "names", "windows", "quoted", "manifest", "class index"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_every_form_of_a_list_is_read(tmp_path, text, ids, encoding):
    path = tmp_path / ("list.json" if "{" in text else "list.txt")
    text = text.removeprefix("\ufeff") if encoding == "utf-16" else text
    path.write_bytes(text.encode(encoding))
    assert read_class_list(path) == (ids, NAMES)
    if ids:
        assert names_of(("n02", "n03", "n01"), path) == (NAMES[1], "n03", NAMES[0])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "neither a manifest.json, an imagenet_class_index.json"),
        (b"n01\ttench\nn02\n", "line 2 of .* is 'n02'; it needs an id, a tab, a name"),
        (b"n01\ttench\nn01\tcarp\n", "line 2 of .* names the class 'n01' a second time"),
        ("n01\tt\u00eate\n".encode("latin-1"), r"not UTF-8 text \(.*\); save it as UTF-8"),
        (codecs.BOM_UTF16_LE + b"x", "not UTF-8 text"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, data, message):
    path = tmp_path / "list.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_class_list(path)


@pytest.mark.parametrize(
    "data",
    [
        "[" * 100_000,
        "{}",
        "[]",
        "7",
        '{"classes": [1], "class_names": ["a"]}',
        '{"1": ["n01", "tench"]}',
        '{"0": ["n01", "tench"], "1": ["n01", "tench"]}',
        '{"0": "tench"}',
    ],
)
def test_json_of_something_else_is_refused(tmp_path, data):
    (tmp_path / "list.json").write_text(data)
    with pytest.raises(ValueError, match="neither a manifest.json, an imagenet_class_index.json"):
        read_class_list(tmp_path / "list.json")


def test_packed_data_is_a_list_of_its_classes(tmp_path):
    (tmp_path / "val").mkdir()
    text = json.dumps({"classes": IDS, "class_names": NAMES})
    (tmp_path / "val/manifest.json").write_text(text)
    assert read_class_list(tmp_path) == read_class_list(tmp_path / "val") == (IDS, NAMES)
    (tmp_path / "val/manifest.json").unlink()
    with pytest.raises(ValueError, match="val has no packed data"):
        read_class_list(tmp_path / "val")
