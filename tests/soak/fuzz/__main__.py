"""Tries one input of the fuzzer again: `python -m tests.soak.fuzz KIND SEED NUMBER`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.soak.fuzz.child import damaged, prepare
from tests.soak.fuzz.guard import Guard
from tests.soak.fuzz.kinds import KINDS
from tests.soak.fuzz.reading import judge


def main(name: str, seed: str, number: str) -> None:
    kind, folder = KINDS[name], Path(tempfile.mkdtemp("", "fuzz-"), name)
    data = damaged(kind, name, int(seed), int(number), prepare(kind, folder))
    (folder / kind.file).write_bytes(data)
    print(f"{folder / kind.file}: {len(data):,} bytes", flush=True)
    guard = Guard(folder)
    try:
        with guard:
            kind.read(folder)
        print("was read")
    except (Exception, SystemExit) as error:
        print(f"judged as {judge(error, kind)}", flush=True)
        raise
    finally:
        print(f"forbidden: {guard.noted}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
