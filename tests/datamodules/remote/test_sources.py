"""What can be opened, which failures are tried again, and that no error shows a secret."""

import errno
import gc
import multiprocessing
import pickle
import time
import traceback
from itertools import product

import fsspec
import numpy as np
import pytest

from datamodules.remote import openers, sources
from datamodules.remote.sources import SourceError, open_source, read_source, with_retries
from datamodules.remote.urls import is_remote, local_path, redacted
from tests.datamodules.servers import serving

QUICK = (0.01, 0.01)
DATA = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def url(http_server):
    (http_server.root / "a.tar").write_bytes(DATA)
    return f"{http_server.url}/a.tar"


def whole(location, offset=0, size=300_000, timeout=5.0):
    with open_source(location, offset, size, timeout) as source:
        return source.tell(), source.readall()


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/data/a b.tar", "/data/a b.tar"),
        ("data:old/a.tar", "data:old/a.tar"),
        ("a/b?c#d", "a/b?c#d"),
        ("file:/data/a%20b", "/data/a b"),
        ("file:///data/a", "/data/a"),
        ("file://localhost/data/a", "/data/a"),
    ],
)
def test_paths_and_file_urls_are_local(location, path):
    assert not is_remote(location)
    assert local_path(location) == path
    with pytest.raises(ValueError, match="host 'nas'"):
        local_path("file://nas/data")


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("https://h.org/d/a.tar", "https://h.org/d/a.tar"),
        ("https://me:pw@h.org:8080/d/a.tar?X-Sig=pw&b=1#pw", "https://h.org:8080/d/a.tar"),
        ("https://me:p/pw@h.org/a", "https://..."),
        ("s3://bucket/key.tar", "s3://bucket/key.tar"),
        ("simplecache::https://me:pw@h/a?t=pw", "simplecache::https://h/a"),
        ("pipe:curl -H 'Authorization: pw' https://h/a", "pipe:curl ..."),
        ("pipe:/usr/bin/curl pw", "pipe:/usr/bin/curl ..."),
        ("pipe:TOKEN=pw curl x", "pipe: ..."),
        ("pipe:", "pipe: ..."),
    ],
)
def test_names_for_people_have_no_secrets(location, name):
    assert is_remote(location)
    assert redacted(location) == name
    with pytest.raises(ValueError, match="not a local path") as raised:
        local_path(location)
    assert "pw" not in str(raised.value)


def test_reads_http_with_one_request(url, http_server):
    assert whole(url) == (0, DATA)
    assert http_server.transfers("/a.tar") == [(None, len(DATA))]


def test_begins_in_the_middle_if_the_server_can(url, http_server):
    assert whole(url, 123_456) == (123_456, DATA[123_456:])
    assert http_server.transfers("/a.tar") == [("bytes=123456-299999", len(DATA) - 123_456)]


@pytest.mark.parametrize("lengths", [True, False])
def test_begins_at_zero_if_the_server_cannot(url, http_server, lengths):
    assert whole(url, 300_000, None) == (0, DATA)  # it has less
    http_server.ranges, http_server.lengths = False, lengths
    assert whole(url, 123_456) == (0, DATA)


def test_opens_other_storage_of_fsspec_and_local_files(tmp_path):
    fsspec.filesystem("memory").pipe("/sources/a.tar", DATA)
    (tmp_path / "a.tar").write_bytes(DATA)
    for location in ("memory://sources/a.tar", str(tmp_path / "a.tar"), f"file:{tmp_path}/a.tar"):
        assert whole(location) == (0, DATA)
        assert whole(location, 1000) == (1000, DATA[1000:])


def test_opens_commands_and_one_that_fails_after_half_is_an_error(tmp_path):
    (tmp_path / "a.tar").write_bytes(DATA)
    for offset in (0, 1000):
        assert whole(f"pipe:cat {tmp_path}/a.tar", offset) == (0, DATA)
    for size in (None, len(DATA), 150_000):
        with pytest.raises(SourceError, match="ended with exit status 7 after 150,000"):
            whole(f"pipe:head -c 150000 {tmp_path}/a.tar; exit 7", size=size)


def test_commands_that_do_not_exist_are_tried_once():
    with pytest.raises(SourceError, match=r"exit status 127 .*\(1 attempt\)"):
        read_source("pipe:no-such-program a 2>&-", QUICK)


def test_a_command_that_says_nothing_or_never_ends_is_given_up():
    with pytest.raises(SourceError, match="no answer for 0.2 s"):
        whole("pipe:exec sleep 600", timeout=0.2)
    with pytest.raises(SourceError, match="closed its output and did not end"):
        whole("pipe:exec sleep 600 >&-", size=None, timeout=0.2)
    with open_source("pipe:cat /dev/zero") as source:
        assert source.read(10) == bytes(10)


@pytest.mark.parametrize(
    ("action", "cause"),
    [
        (503, "HTTP 503"),
        (("cut", 123_456), "after .* of 300,000 bytes"),
        (("cut", 0), "the connection failed .* after 0 of 300,000 bytes"),
        (("stall", 20_000), "no answer for 0.5 s after .* of 300,000 bytes"),
        ("silent", "no answer for 0.5 s"),
        (("drip", 4_000), "only .* bytes a second came after .* of 300,000 bytes"),
        (("more", 5), "more than the 300,000 bytes expected"),
    ],
)
def test_http_failures_never_pass_for_whole_files(url, http_server, action, cause):
    http_server.fail("/a.tar", action)
    with pytest.raises(SourceError, match=cause) as raised:
        whole(url, timeout=0.5)
    assert raised.value.transient
    assert whole(url) == (0, DATA)


def test_cuts_of_a_range_and_without_a_content_length_are_errors(url, http_server):
    http_server.fail("/a.tar", *[("cut", 12_345)] * 2)
    with pytest.raises(SourceError, match="connection failed"):
        whole(url, 1000)
    http_server.lengths = False
    with pytest.raises(SourceError, match="ended after 12,345 of 300,000 bytes"):
        whole(url)


def test_a_range_that_drips_is_given_up(url, http_server, monkeypatch):
    monkeypatch.setattr(openers, "SLOWEST", 1 << 30)  # the range has 8 MiB, most of a second
    http_server.fail("/a.tar", *[("drip", 4_000)] * 3)
    with pytest.raises(SourceError, match="no answer for 0.5 s"):
        whole(url, 1000, timeout=0.5)


def slow_headers(body):
    yield b"HTTP/1.1 200 OK\r\nX-Slow: "
    while True:
        time.sleep(0.01)
        yield b"a"


def no_headers(body):
    while True:
        yield b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("answer", [slow_headers, no_headers])
def test_headers_that_do_not_end_are_given_up(url, http_server, answer):
    http_server.fail("/a.tar", *[answer] * 3)
    for begin in (0, 1000):
        with pytest.raises(SourceError, match="no answer for 0.3 s"):
            whole(url, begin, timeout=0.3)


def test_a_slow_reader_is_no_slow_source(url, monkeypatch):
    monkeypatch.setattr(openers, "_RANGE", 100_000)
    with open_source(url, size=len(DATA), timeout=0.05) as source:
        found = b""
        while block := source.read(30_000):
            time.sleep(0.02)  # what it is asked for is there
            found += block
    assert found == DATA


def test_redirects_lead_to_the_same_server_or_out_of_private_networks(url, http_server, tmp_path):
    http_server.fail("/b.tar", ("redirect", url), ("redirect", "/a.tar"))
    (http_server.root / "b.tar").touch()
    other = f"{http_server.url}/b.tar"
    assert whole(other) == whole(other) == (0, DATA)
    with serving(tmp_path / "internal") as internal:
        (internal.root / "a.tar").write_bytes(DATA)
        port = internal.url.rpartition(":")[2]
        places = (internal.url, f"http://localhost:{port}", f"http://[::ffff:127.0.0.1]:{port}")
        for place in (*places, "http://169.254.169.254", "http://[fe80::1]", "http://0.0.0.0:1"):
            for begin, kind in product((0, 1000), ("redirect", "redirect by URI")):
                http_server.fail("/b.tar", (kind, f"{place}/a.tar"))
                with pytest.raises(SourceError, match=r"it redirects to .* private network"):
                    whole(other, begin)
        assert not internal.requests
    http_server.fail("/b.tar", ("redirect", "http://storage.invalid/a.tar"))
    with pytest.raises(SourceError, match="the connection failed"):  # allowed, but not found
        whole(other)


def test_transient_failures_are_tried_again(url, http_server):
    http_server.fail("/a.tar", 500, 429)
    assert read_source(url, QUICK) == DATA
    http_server.fail("/a.tar", 500, 408, ("cut", 10))
    with pytest.raises(SourceError, match=r"cannot read .*a.tar: .* \(3 attempts\)"):
        read_source(url, QUICK)
    assert len(http_server.requests) == 6


def test_permanent_failures_are_not(url, http_server, tmp_path):
    for status in (401, 403, 410):
        http_server.fail("/a.tar", status)
        with pytest.raises(SourceError, match=rf"HTTP {status} \(1 attempt\)"):
            read_source(url, QUICK)
    http_server.fail("/a.tar", 404)
    with pytest.raises(SourceError, match=r"no such file \(1 attempt\)"):
        read_source(url, QUICK)
    for location in (f"{tmp_path}/none", "memory://none/none"):
        with pytest.raises(SourceError, match=r"no such file \(1 attempt\)"):
            read_source(location, QUICK)
    with pytest.raises(SourceError, match=r"refused \(3 attempts\)"):
        read_source("http://127.0.0.1:9/a", QUICK)


def test_a_file_that_never_ends_is_given_up_at_a_limit(url, http_server, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES", len(DATA) - 1)
    with pytest.raises(SourceError, match=r"it has more than [\d,]+ bytes \(1 attempt\)"):
        read_source(url, QUICK)
    with pytest.raises(SourceError, match="it has more than"):
        read_source("pipe:cat /dev/zero", QUICK)


def test_mistakes_full_disks_and_interrupts_are_not_failures_of_the_source():
    for error in (TypeError, MemoryError, KeyboardInterrupt, OSError(errno.ENOSPC, "full")):
        calls = []

        def attempt(error=error, calls=calls):
            calls.append(1)
            raise error

        with pytest.raises(error if isinstance(error, type) else OSError):
            with_retries(attempt, QUICK)
        assert len(calls) == 1


def test_delays_double_with_jitter(monkeypatch):
    slept = []
    monkeypatch.setattr(sources.time, "sleep", slept.append)

    def attempt():
        raise SourceError("x", "y")

    with pytest.raises(SourceError, match="6 attempts"):
        with_retries(attempt)
    assert all(d / 2 <= s <= d * 1.5 for s, d in zip(slept, (1, 2, 4, 8, 16), strict=True))


@pytest.mark.parametrize(
    ("location", "remedy"),
    [
        ("s3://b/k", "install something for s3"),
        ("hf://datasets/a/b", "pip install huggingface_hub"),
        ("foo://me:pw@b/k", "webdataset and fsspec open .*s3"),
        ("ais://b/k", "install the program ais"),
    ],
)
def test_schemes_that_nothing_opens_are_named_with_the_remedy(location, remedy, monkeypatch):
    def missing(name):
        raise ImportError(f"install something for {name}")

    if not location.startswith("foo"):  # whether or not the plugin is installed here
        monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
        monkeypatch.setattr(openers.shutil, "which", lambda _: None)
    with pytest.raises(ValueError, match=remedy) as raised:
        read_source(location, QUICK)
    assert location.partition(":")[0] in str(raised.value)
    assert "pw" not in str(raised.value)


def test_secrets_are_in_no_error(url, http_server, tmp_path):
    secret = url.replace("http://", "http://me:pa55word@") + "?token=pa55word"
    http_server.fail("/a.tar", 500, 404, ("cut", 10), "silent", ("more", 1))
    command = "pipe:false -H 'token: pa55word'"
    for location in [secret] * 5 + [command, secret.replace("127.0.0.1", "no.such.host.invalid")]:
        with pytest.raises(SourceError) as raised:
            whole(location, timeout=0.3)
        assert "pa55word" not in "".join(traceback.format_exception(raised.value))
        assert "pa55word" not in repr(raised.value)


def test_errors_survive_pickling_and_being_made_from_their_text():
    error = SourceError("https://h/a", "HTTP 404", transient=False)
    error.attempts = 3
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "cannot read https://h/a: HTTP 404 (3 attempts)"
    assert not copy.transient
    assert str(SourceError(str(error))) == str(error)


@pytest.mark.parametrize(
    "method", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)]
)
def test_works_in_processes_of_one_that_has_used_it(url, method):
    assert read_source(url) == DATA  # fsspec's thread runs now
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(read_source, [url] * 4) == [DATA] * 4
        assert read_source(url, (), 30.0) == DATA


def test_a_forked_process_leaves_the_connections_of_its_parent_alone(url):
    def child():
        assert read_source(url, (), 30.0) == DATA
        gc.collect()  # drops the client that it has inherited

    assert read_source(url, (), 30.0) == DATA
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert read_source(url, (), 30.0) == DATA
