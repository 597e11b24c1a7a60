"""W&B's own agent runs the sweep in configs/, each trial in a folder of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from bagnet.training.command_line.command import main
from tests.slurm.runs import records
from tests.test_configs import SMALL
from tests.test_project import SWEEP
from tests.trainings import REPOSITORY, TINY

TRIALS = {
    "5x1trial": {"model.learning_rate": 0.004, "model.weight_decay": 2e-5},
    "9kbtrial": {"model.learning_rate": 0.05, "model.weight_decay": 1e-4},
}


class Server(ThreadingHTTPServer):
    """What W&B's server answers to `wandb sweep` and to an agent, which gets both trials, the first
    of them again, and the end."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.sweep: dict[str, Any] = {"id": "1", "name": "abc", "runs": {"edges": []}}
        runs = [*TRIALS, next(iter(TRIALS))]
        self.commands = [
            {
                "type": "resume" if trial in runs[:number] else "run",
                "run_id": trial,
                "program": "train.py",
                "args": {name: {"value": value} for name, value in TRIALS[trial].items()},
            }
            for number, trial in enumerate(runs)
        ]

    def answer(self, question: str, variables: dict[str, Any]) -> dict[str, Any]:
        agent = {"id": "agent"}
        if question == "UpsertSweep":
            self.sweep |= {"state": "RUNNING", "config": variables["config"]}
            project = {"name": "mine", "entity": {"name": "me"}}
            created = {"name": "abc", "project": project}
            return {"upsertSweep": {"sweep": created, "configValidationWarnings": []}}
        if question == "SweepWithRuns":
            return {"project": {"sweep": self.sweep}}
        if question == "CreateAgent":
            return {"createAgent": {"agent": agent}}
        if question == "Heartbeat":
            commands: list[dict[str, Any]] = []
            if variables["runState"] == "{}":  # no trial is running
                commands = [self.commands.pop(0) if self.commands else {"type": "exit"}]
            return {"agentHeartbeat": {"agent": agent, "commands": json.dumps(commands)}}
        assert question == "Viewer"
        return {"viewer": {"id": "me", "username": "me", "entity": "me", "flags": "{}"}}


class Answers(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        reply = b"{}"
        if self.path == "/graphql":  # else statistics
            asked = json.loads(body)
            (question,) = re.findall(r"^\s*(?:query|mutation)\s+(\w+)", asked["query"])
            reply = json.dumps({"data": self.server.answer(question, asked.get("variables"))})
            reply = reply.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.slow
def test_wandbs_agent_runs_each_trial_in_its_own_folder(server, shards, tmp_path):
    for name in ("train.py", "configs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    sweep = yaml.safe_load(SWEEP.read_text())
    sizes = ["--data.train_sizes", "{0: 41, 1: 48}"]
    sweep["command"] = ["env", "WANDB_MODE=offline", *sweep["command"], *SMALL, *sizes]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    ours = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    programs = Path(sys.executable).parent
    environment = {
        **ours,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SHARDS": str(shards),
        "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}",
        "WANDB_API_KEY": "0" * 40,
    }
    for words in (["sweep", "-e", "me", "-p", "mine", "sweep.yaml"], ["agent", "me/mine/abc"]):
        done = subprocess.run(
            [programs / "wandb", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert not server.commands
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {*TRIALS}
    for trial, values in TRIALS.items():
        config = yaml.safe_load((tmp_path / "runs" / trial / "config.yaml").read_text())
        for name, value in values.items():
            part, _, key = name.partition(".")
            assert config[part][key] == value
        (file,) = (tmp_path / "wandb").glob(f"offline-run-*/run-{trial}.wandb")
        run = next(record.run for record in records(file) if record.HasField("run"))
        assert (run.sweep_id, run.entity, run.project) == ("abc", "me", "mine")
        assert (run.run_id, run.display_name) == (trial, trial)
    # W&B gives a trial again that was preempted; this one had already ended.
    assert f"runs/{next(iter(TRIALS))} is complete: 2 of 2 steps are done" in done.stdout


def test_a_loop_gives_each_trial_a_name(shards, tmp_path, monkeypatch):
    """The loop of docs/wandb.md, as bash runs it."""
    page = (REPOSITORY / "docs" / "wandb.md").read_text()
    (loop,) = re.findall(r"```bash\n(for .*?)```", page, re.DOTALL)
    said = subprocess.run(
        ["bash", "-c", loop.replace("python", "echo python")],
        capture_output=True,
        text=True,
        check=True,
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    lines = said.stdout.splitlines()
    assert len(lines) == 3
    for line in lines[:2]:
        words = line.split()[2:]
        words[words.index("/data/shards")] = str(shards)
        assert main([*words, *SMALL, "--data.train_sizes", "{0: 41, 1: 48}"]) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_trial_that_is_stopped_says_the_command_that_resumes_it(monkeypatch, capsys):
    from bagnet.run.signals import Stopped
    from bagnet.training.command_line import command

    def stop(given):
        raise Stopped(command.signal.SIGINT, Path("last.ckpt"))

    monkeypatch.setattr(command, "_run", stop)
    assert main([*TINY, "--resume=auto"]) == 130
    assert capsys.readouterr().out.rstrip().endswith("--resume=auto")
    assert main([*TINY, "--ckpt_path", "old.ckpt"]) == 130
    assert capsys.readouterr().out.rstrip().endswith("--ckpt_path old.ckpt --resume auto")
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_RUN_ID", "5x1trial")
    assert main(TINY) == 130
    assert capsys.readouterr().out.rstrip().endswith("--resume auto --name 5x1trial")
