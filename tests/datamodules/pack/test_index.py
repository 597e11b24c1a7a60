"""Indexing shards that stay where they are: what webdataset reads, for all kinds of locations."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import zlib
from pathlib import Path

import pytest
import webdataset as wds

from datamodules.shards.manifest import Manifest
from tests.datamodules.pack.builders import cut, image, pack, refused, tar_of, write


def write_tar(path, members):
    return write(path, tar_of(members))


def sample(key, label, suffix="jpg", seed=0):
    kind = {"jpg": "JPEG", "JPEG": "JPEG", "png": "PNG", "webp": "WEBP"}[suffix]
    about = json.dumps({"class_id": f"n{label}", "class_name": f"name {label}"}).encode()
    named = [(f"{key}.{suffix}", image(seed, kind)), (f"{key}.json", about)]
    return [*named, (f"{key}.cls", b"%d\n" % label)]


@pytest.fixture
def root(tmp_path):
    """Foreign shards: four uneven ones of train, each of one class, and one of validation."""
    kinds = ["jpg", "png", "webp", "JPEG"]
    for label, count in enumerate((1, 5, 2, 3)):
        members = [
            member
            for n in range(count)
            for member in sample(f"./im.d/n{label}/x{n}", label, kinds[n % 4], 10 * label + n)
        ]
        if label == 2:  # a folder, a file that is no sample, a long name, another order
            members = [("README", b"hello"), *reversed(members)]
            members += sample("deep/" * 60 + "é x", 2, seed=99)
        write_tar(tmp_path / f"in/train-{label:04d}.tar", members)
    val = [member for label in range(4) for member in sample(f"v{label}", label, seed=50 + label)]
    write_tar(tmp_path / "in/val.tar", val)
    return tmp_path / "in"


@pytest.fixture
def server(root, http_server):
    """The URL of a server of the shards."""
    http_server.root = root
    return http_server.url


def facts(manifest):
    """What the manifest says, but for where the shards are."""
    shards = [(s.name, s.samples, s.bytes, s.sha256) for s in manifest.shards]
    return shards, manifest.samples.tolist(), manifest.classes, manifest.class_names


def indexed(manifest, root):
    """(key, image bytes, label) of all samples, sorted; the shards' files are in `root`."""
    found = []
    for each in map(manifest.sample, range(manifest.num_samples)):
        data = (root / each.shard.name).read_bytes()
        member = data[each.offset :][: each.size]
        assert zlib.crc32(member) == each.crc32
        sha256 = hashlib.sha256(data).hexdigest()
        assert (each.shard.bytes, each.shard.sha256) == (len(data), sha256)
        found.append((each.key, member, each.label))
    return sorted(found)


def webdataset_reads(paths):
    samples = wds.WebDataset([str(path) for path in paths], shardshuffle=False)
    images = ("jpg", "jpeg", "png", "webp")
    return sorted(
        (s["__key__"], next(s[kind] for kind in images if kind in s), int(s["cls"]))
        for s in samples
    )


def test_an_index_says_what_webdataset_reads(root, tmp_path, capsys):
    assert pack("index", root, tmp_path / "out") == 0
    for split, count in (("train", 12), ("val", 4)):
        manifest = Manifest.load(tmp_path / "out" / split)
        paths = sorted(root.glob(f"{split}*.tar"))
        assert indexed(manifest, root) == webdataset_reads(paths)
        assert manifest.num_samples == count
        assert [shard.url for shard in manifest.shards] == list(map(str, paths))
        assert manifest.classes == ("n0", "n1", "n2", "n3")
        assert manifest.class_names == ("name 0", "name 1", "name 2", "name 3")
        written = {path.name for path in (tmp_path / "out" / split).iterdir()}
        assert written == {"manifest.json", "samples.npy"}
    said = capsys.readouterr().out
    assert "train: 12 images, 4 shards" in said
    assert said.endswith(f"next: python train.py --data.root {tmp_path / 'out'}\n")
    assert pack("verify", tmp_path / "out") == 0


def test_workers_and_repetition_change_nothing(root, tmp_path):
    for out, workers in (("a", 1), ("b", 2), ("b", 1)):
        assert pack("index", root, tmp_path / out, workers=workers) == 0
    for file in ("train/manifest.json", "train/samples.npy", "val/manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_over_http(root, server, tmp_path, capsys, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    urls = [f"{server}/train-{{0000..0003}}.tar", f"{server}/val.tar?token=secret"]
    assert pack("index", *urls, tmp_path / "out") == 0
    assert pack("index", root, tmp_path / "local") == 0
    for split in ("train", "val"):
        manifest = Manifest.load(tmp_path / "out" / split)
        assert facts(manifest) == facts(Manifest.load(tmp_path / "local" / split))
    assert manifest.shards[0].url == urls[1]
    assert pack("verify", tmp_path / "out") == 0
    assert not list((tmp_path / "tmp").iterdir())
    (root / "val.tar").unlink()
    (root / "train-0001.tar").write_bytes((root / "train-0001.tar").read_bytes()[:3000])
    capsys.readouterr()
    assert pack("verify", tmp_path / "out") == 1
    said = capsys.readouterr().out
    assert f"val/val.tar: cannot read {server}/val.tar: no such file" in said
    assert "train/train-0001.tar: has 3,000 bytes and not" in said
    assert "secret" not in said


def test_a_folder_of_the_hub(root, hub, tmp_path):
    shutil.copytree(root, hub.root / "files", dirs_exist_ok=True)
    assert pack("index", "hf://datasets/org/name", tmp_path / "out") == 0
    assert pack("index", root, tmp_path / "local") == 0
    for split in ("train", "val"):
        manifest, local = (Manifest.load(tmp_path / name / split) for name in ("out", "local"))
        assert facts(manifest) == facts(local)
        assert {shard.url.rpartition("/")[0] for shard in manifest.shards} == {
            "hf://datasets/org/name"
        }
    assert pack("verify", tmp_path / "out") == 0


def test_through_commands(root, tmp_path, capsys):
    out = tmp_path / "out"
    assert pack("index", f"pipe:cat {root}/train-{{0000..0003}}.tar", out) == 0
    assert capsys.readouterr().out.endswith(f"--data.root {out} --data.allow_pipe true\n")
    assert pack("index", f"pipe:cat {root}/val.t*", out, "--split", "val") == 0
    assert capsys.readouterr().out.endswith(f"--data.root {out} --data.allow_pipe true\n")
    with pytest.raises(ValueError, match="allow_pipe"):
        Manifest.load(out / "train")
    manifest = Manifest.load(out / "train", allow_pipe=True)
    assert indexed(manifest, root) == webdataset_reads(sorted(root.glob("train*.tar")))
    assert Manifest.load(out / "val", allow_pipe=True).shards[0].name == "source-000000"
    assert "--allow_pipe" in refused(capsys, "verify", out)
    assert pack("verify", out, "--allow_pipe") == 0


def test_each_shard_once_and_each_name_once(root, tmp_path):
    again = write_tar(tmp_path / "other/train-0000.tar", sample("y", 1))
    link = f"{root}/../in/train-000[0-3].tar"
    assert pack("index", root / "train-0000.tar", again, link, tmp_path / "out") == 0
    manifest = Manifest.load(tmp_path / "out/train")
    names = ["train-0000.tar", "2-train-0000.tar", "train-0001.tar"]
    assert [shard.name for shard in manifest.shards[:3]] == names
    assert len(manifest.shards) == 5
    assert manifest.shards[1].url == str(again)


def test_a_second_split_has_the_classes_of_the_first(root, tmp_path, capsys):
    (tmp_path / "names").write_text("".join(f"c{n}\tname\n" for n in range(4)))
    words = (tmp_path / "out", "--class_names", tmp_path / "names")
    assert pack("index", f"{root}/train-*", *words) == 0
    assert pack("index", root / "val.tar", tmp_path / "out") == 0
    assert Manifest.load(tmp_path / "out/val").classes == ("c0", "c1", "c2", "c3")
    write_tar(tmp_path / "val-9.tar", sample("z", 4))
    error = refused(capsys, "index", tmp_path / "val-9.tar", tmp_path / "out")
    assert "holds an index of other shards" in error


def test_samples_that_cannot_be_used_are_left_out_and_told(tmp_path, capsys):
    good = [member for n in range(3000) for member in ((f"{n}.jpg", b"x"), (f"{n}.cls", b"0"))]
    bad = [("a.cls", b"0"), ("b.jpg", b"x"), ("c.jpg", b""), ("c.cls", b"0")]
    write_tar(tmp_path / "train-0.tar", good + bad)
    write_tar(tmp_path / "train-1.tar", [])
    assert pack("index", tmp_path / "train-0.tar", tmp_path / "train-1.tar", tmp_path / "out") == 0
    reasons = {"a": "no image among cls", "b": "no cls", "c": "an image of 0 bytes"}
    told = "".join(f"train-0.tar: {key}\t{reason}\n" for key, reason in reasons.items())
    assert (tmp_path / "out/train/skipped.tsv").read_text() == told
    assert "3 skipped" in capsys.readouterr().out
    assert Manifest.load(tmp_path / "out/train").counts.tolist() == [3000, 0]
    write_tar(tmp_path / "train-0.tar", [*good, *bad, ("d.jpg", b"x"), ("d.cls", b"cat")])
    error = refused(capsys, "index", tmp_path / "train-0.tar", tmp_path / "new")
    assert "4 of the 3,004 images of train are unreadable" in error
    assert "d\tinvalid literal" in (tmp_path / "new/train/skipped.tsv").read_text()
    assert not (tmp_path / "new/train/manifest.json").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda r, s: r / "train-0009.tar", "no such shard: "),
        (lambda r, s: r / "*.zip", "no shards (.tar) match"),
        (lambda r, s: cut(r / "train-0001.tar", 1700), "train-0001.tar is not a complete"),
        (lambda r, s: cut(r / "train-0001.tar", 0), "train-0001.tar is not a complete"),
        (lambda r, s: (r / "val.tar").rename(r / "x.tar"), "x.tar says neither train nor val"),
        (lambda r, s: write_tar(r / "train-1.tar", [("a", b"")]), "train shards have no sample"),
        (lambda r, s: f"{s}/train-0009.tar", "/train-0009.tar: no such file"),
        (lambda r, s: f"{s}/", "says neither train nor val"),
        (lambda r, s: f"{s}/{cut(r / 'train-0001.tar', 1700).name}", "1.tar is not a complete"),
        (lambda r, s: f"{s}/train-{{0..1.tar", "Unbalanced braces"),
        (lambda r, s: "nosuch://host/train-0.tar", "nothing installed opens nosuch:"),
        (lambda r, s: "pipe:no-such-program train-0.tar", "exit status 127"),
    ],
)
def test_what_makes_no_sense_is_one_clear_error(root, server, tmp_path, capsys, source, message):
    assert message in refused(capsys, "index", source(root, server), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_data_in_the_folder_is_never_touched(root, tmp_path, capsys):
    assert pack("wds", f"{root}/train*", tmp_path / "packed") == 0
    assert pack("index", f"{root}/train-000[01]*", tmp_path / "indexed") == 0
    for out in ("packed", "indexed"):
        before = {path: path.read_bytes() for path in (tmp_path / out).rglob("*.*")}
        assert "choose another OUT" in refused(capsys, "index", f"{root}/train*", tmp_path / out)
        assert before == {path: path.read_bytes() for path in (tmp_path / out).rglob("*.*")}
    assert "choose another OUT" in refused(capsys, "wds", f"{root}/train*", tmp_path / "indexed")
    assert pack("index", root / "val.tar", tmp_path / "packed") == 0  # one of each is fine
    assert pack("verify", tmp_path / "packed") == 0


def flip(path, suffix):
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        member = next(m for m in tar if m.name.endswith(suffix))
    data[member.offset_data] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "messages", "problems"),
    [
        (lambda p: flip(p, ".jpg"), ["sha256 differs", "x0: the CRC-32 of the image differs"], 2),
        (lambda p: flip(p, ".cls"), ["sha256 differs"], 1),
        (lambda p: cut(p, 3000), ["has 3,000 bytes", "sha256", "x4: the shard ends after 0 of"], 6),
        (Path.unlink, ["the file is missing"], 1),
    ],
)
def test_damage_is_found_and_named(root, tmp_path, capsys, damage, messages, problems):
    assert pack("index", root, tmp_path / "out") == 0
    damage(root / "train-0001.tar")
    capsys.readouterr()
    assert pack("verify", tmp_path / "out") == 1
    said = capsys.readouterr().out
    for message in messages:
        assert message in said
    assert said.count("train/train-0001.tar: ") == problems
    assert said.count("\n") == problems + 2


def test_images_are_decoded_by_verify_only(tmp_path, capsys):
    write_tar(tmp_path / "train-0.tar", [("a.jpg", b"no image"), ("a.cls", b"0")])
    assert pack("index", tmp_path / "train-0.tar", tmp_path / "out") == 0
    assert pack("verify", tmp_path / "out") == 1
    assert "train-0.tar: a: the image cannot be decoded" in capsys.readouterr().out


def test_a_damaged_index_is_made_again_after_deleting_it(root, tmp_path, capsys):
    assert pack("index", root / "val.tar", tmp_path / "out") == 0
    cut(tmp_path / "out/val/samples.npy", 100)
    error = refused(capsys, "index", root / "val.tar", tmp_path / "out")
    assert f"after deleting {tmp_path}/out/val" in error
    (tmp_path / "out/val/manifest.json").unlink()  # as where it was interrupted
    assert pack("index", root / "val.tar", tmp_path / "out") == 0
