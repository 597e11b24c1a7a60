"""The scripts in slurm/: the commands that they run, when they requeue a job, what they refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = sorted((REPOSITORY / "slurm").glob("*.sbatch"))

SRUN = """\
#!/bin/bash
printf '%s\\n' "$@" > "$WORDS"
if [[ -n ${TRY_PORT:-} ]]; then python3 -c "$TRY_PORT"; fi
exit "${SRUN_CODE:-0}"
"""
SCONTROL = """\
#!/bin/bash
case $* in
  *show*) echo "JobId=7 PreemptEligibleTime=2026-11-23T10:00:00 PreemptTime=$PREEMPTED" ;;
  *)
    echo "$*" >> "$QUEUED"
    [[ -z ${REFUSED:-} ]] || { echo "scontrol: Access denied" >&2; exit 1; }
    ;;
esac
"""
JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_NTASKS_PER_NODE": "8",
    "SLURM_CPUS_ON_NODE": "32",
    "SLURM_GPUS_ON_NODE": "4",
    "PREEMPTED": "None",
}
START = ["--kill-on-bad-exit=1", "--nodes=2", "--ntasks-per-node=4", "--ntasks=8"]
START += ["--cpus-per-task=8", "--distribution=block:block"]
PYTHON = len(START)  # in the words of srun
WHERE = ["--trainer.accelerator", "gpu", "--data.workers", "7"]


@pytest.fixture
def project(tmp_path):
    """A folder with the scripts, a Python, and programs of SLURM's that record their arguments."""
    project = tmp_path / "the project"
    (project / "slurm").mkdir(parents=True)
    for file in (REPOSITORY / "slurm").iterdir():
        if file.name != "site.env":
            (project / "slurm" / file.name).write_bytes(file.read_bytes())
    programs = {"srun": SRUN, "scontrol": SCONTROL, "python": "#!/bin/bash\n"}
    programs["python3"] = f'#!/bin/bash\nexec {sys.executable} "$@"\n'
    (project / "bin").mkdir()
    for name, text in programs.items():
        (project / "bin" / name).write_text(text)
        (project / "bin" / name).chmod(0o755)
    return project


@pytest.fixture
def submit(project):
    """Runs a script as a job of two nodes with 4 GPUs and 32 CPUs each."""

    def run(script, *arguments, site="", code=0, **variables):
        (project / "slurm" / "site.env").write_text(f"BAGNET_PYTHON=python\n{site}")
        job = {**JOB, **{name: str(value) for name, value in variables.items()}}
        files = {"WORDS": f"{project}/words", "QUEUED": f"{project}/queued"}
        done = subprocess.run(
            ["bash", project / "slurm" / script, *arguments],
            env={
                **{name: os.environ[name] for name in ("HOME",) if name in os.environ},
                "PATH": f"{project}/bin:{os.environ['PATH']}",
                "SLURM_SUBMIT_DIR": str(project),
                "SRUN_CODE": str(code),
                **files,
                **job,
            },
            capture_output=True,
            text=True,
        )
        words, queued = (Path(path) for path in files.values())
        done.words = words.read_text().splitlines() if words.exists() else []
        done.queued = queued.read_text().splitlines() if queued.exists() else []
        return done

    return run


def test_a_training_gets_ranks_and_cpus_from_the_job_and_the_users_arguments_last(submit):
    done = submit("train.sbatch", "--patch", "17", "--name", "a b")
    assert (done.returncode, done.stderr) == (0, "")
    words = ["python", "train.py", *WHERE, "--patch", "17", "--name", "a b", "--resume", "auto"]
    assert done.words == START + words
    assert "job 7, start 1: 2 x 4 tasks with 8 CPUs on n[1-2]" in done.stdout
    assert not done.queued


PORT = """
import os, socket
port = int(os.environ["MASTER_PORT"])
for reuse in (0, 1):
    rank_0 = socket.socket()
    rank_0.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)  # as torch's TCPStore does
    try:
        rank_0.bind(("", port))
        rank_0.listen()
        print("listens")
    except OSError:
        print("is refused")
"""


def test_nobody_else_can_have_the_port_at_which_the_ranks_of_a_job_meet(submit):
    done = submit("train.sbatch", TRY_PORT=PORT)
    assert done.stdout.splitlines()[1:] == ["is refused", "listens"], done.stderr
    held = "import os; print(os.environ['MASTER_PORT'])"
    done = submit("train.sbatch", site="export MASTER_PORT=12345", TRY_PORT=held)
    assert done.stdout.splitlines()[1:] == ["12345"]


def test_tasks_are_distributed_as_the_user_says(submit):
    assert "--distribution=cyclic" in submit("train.sbatch", SLURM_DISTRIBUTION="cyclic").words


def test_without_gpus_there_are_as_many_tasks_as_requested(submit):
    done = submit("train.sbatch", SLURM_GPUS_ON_NODE=0)
    assert "--ntasks=16" in done.words
    assert "--cpus-per-task=4" in done.words
    assert done.words[done.words.index("--trainer.accelerator") + 1] == "cpu"


def test_one_variable_puts_shards_on_the_nodes_disk(submit):
    site = "BAGNET_CACHE_DIR='/local disk/me'\nBAGNET_CACHE_GIB=150"
    cache = ["--data.cache_dir", "/local disk/me", "--data.cache_gib", "150"]
    words = submit("train.sbatch", "--patch", "9", site=site).words
    assert words[words.index("--patch") - 4 :][:4] == cache
    words = submit("validate.sbatch", "--name", "bagnet33", site=site).words
    assert words[PYTHON:] == [
        "python",
        "train.py",
        "validate",
        *WHERE,
        *cache,
        "--name",
        "bagnet33",
    ]


def test_packing_uses_the_cpus_of_the_job(submit):
    job = {"SLURM_NTASKS_PER_NODE": 1, "SLURM_JOB_NUM_NODES": 1, "SLURM_GPUS_ON_NODE": 0}
    done = submit("pack.sbatch", "imagefolder", "my images", "packed", **job)
    words = ["imagefolder", "--workers", "32", "my images", "packed"]
    assert done.words[PYTHON:] == ["python", "-m", "datamodules.pack", *words]
    assert "say what to pack" in submit("pack.sbatch", **job).stderr


ARRAY = {"SLURM_ARRAY_JOB_ID": 6}


def test_a_sweep_gives_each_task_its_line_and_its_run(submit, project):
    done = submit("sweep.sbatch", "--data.root", "x", **ARRAY, SLURM_ARRAY_TASK_ID=1)
    line = ["--name", "bagnet17", "--patch", "17"]
    assert done.words[PYTHON:] == [
        *("python", "train.py", *WHERE, *line, "--data.root", "x", "--resume", "auto")
    ]
    assert "job 6_1, start 1" in done.stdout
    (project / "mine.txt").write_text("# mine\n\n a --config c.yaml\n b --model.width 8")
    done = submit("sweep.sbatch", "mine.txt", **ARRAY, SLURM_ARRAY_TASK_ID=1)
    assert done.words[-6:] == ["--name", "b", "--model.width", "8", "--resume", "auto"]


def test_a_sweep_that_cannot_work_is_refused(submit, project):
    done = submit("sweep.sbatch", **ARRAY, SLURM_ARRAY_TASK_ID=3)
    assert (
        "slurm/sweep.txt has 3 lines, and none for task 3; give sbatch --array=0-2" in done.stderr
    )
    done = submit("sweep.sbatch", "other.txt", **ARRAY, SLURM_ARRAY_TASK_ID=0)
    assert "there is no list other.txt" in done.stderr
    (project / "twice.txt").write_text("a --patch 9\na --patch 17\n")
    done = submit("sweep.sbatch", "twice.txt", **ARRAY, SLURM_ARRAY_TASK_ID=0)
    assert "names the run a twice" in done.stderr
    assert (done.returncode, done.words) == (2, [])


@pytest.mark.parametrize(
    ("script", "variables", "job"),
    [
        ("train.sbatch", {}, "7"),
        ("sweep.sbatch", {**ARRAY, "SLURM_ARRAY_TASK_ID": 2}, "6_2"),
        ("pack.sbatch", {}, "7"),
    ],
)
def test_a_job_at_its_time_limit_is_requeued(submit, script, variables, job):
    done = submit(script, "wds", code=128 + 10, **variables)
    assert done.queued == [f"requeue {job}"]
    assert f"job {job} is requeued" in done.stdout
    assert done.returncode == 138


def test_a_job_that_was_preempted_and_saved_in_time_is_requeued(submit):
    assert submit("train.sbatch", code=128 + 15, PREEMPTED="2026-11-23T10:00:01").queued
    assert submit("train.sbatch", code=0, PREEMPTED="2026-11-23T10:00:01").returncode == 0


@pytest.mark.parametrize("code", [0, 1, 2, 128 + 15])
def test_a_job_that_ends_otherwise_is_not_requeued(submit, code):
    done = submit("train.sbatch", code=code)
    assert (done.returncode, done.queued) == (code, [])


def test_what_slurm_ends_or_requeues_itself_is_left_to_it(submit, project):
    # SLURM signals the shell too, which must survive until the tasks have saved.
    kill = "#!/bin/bash\nkill -TERM $PPID\necho saved\nexit 143\n"
    (project / "bin" / "srun").write_text(kill)
    done = submit("train.sbatch", PREEMPTED="2026-11-23T10:00:01")
    assert (done.returncode, done.queued) == (143, [])
    assert "saved" in done.stdout


def test_a_job_that_cannot_be_requeued_says_what_to_do(submit):
    done = submit("train.sbatch", code=138, REFUSED=1)
    expected = (
        "job 7 could not be requeued: Access denied; submit the same command again to resume\n"
    )
    assert (done.stderr, done.returncode) == (expected, 138)


def test_a_container_file_is_run_with_apptainer(submit, project):
    site = "unset BAGNET_PYTHON\nBAGNET_CONTAINER='/my images/b.sif'\nBAGNET_MOUNTS=/data:/data"
    words = submit("train.sbatch", "--name", "a b", site=site).words[PYTHON:]
    inside = ["apptainer", "exec", "--nv", "--bind", f"{project}:{project},/data:/data"]
    assert words[:8] == [*inside, "/my images/b.sif", "python", "train.py"]
    assert words[-4:] == ["--name", "a b", "--resume", "auto"]
    sandbox = project / "sandbox"
    sandbox.mkdir()
    words = submit("train.sbatch", site=f"BAGNET_CONTAINER='{sandbox}'").words[PYTHON:]
    assert words[:6] == [*inside[:4], f"{project}:{project}", str(sandbox)]


@pytest.mark.parametrize("image", ["nvcr.io#nvidia/pytorch:26.10-py3", "/images/b.sqsh"])
def test_any_other_image_is_run_with_pyxis(submit, project, image):
    site = f"unset BAGNET_PYTHON\nBAGNET_CONTAINER={image}\nBAGNET_MOUNTS=/data:/data"
    words = submit("train.sbatch", "--name", "a b", site=site).words[PYTHON:]
    assert words[:5] == [
        f"--container-image={image}",
        f"--container-mounts={project}:{project},/data:/data",
        f"--container-workdir={project}",
        "python",
        "train.py",
    ]
    assert words[-4:] == ["--name", "a b", "--resume", "auto"]


def test_what_a_job_lacks_is_reported_before_it_starts(submit):
    done = submit("train.sbatch", site="BAGNET_PYTHON=/no/python")
    assert "there is no /no/python; run `make setup`, or set BAGNET_PYTHON" in done.stderr
    assert done.returncode == 2
    done = submit("train.sbatch", SLURM_CPUS_ON_NODE=2)
    assert "2 CPUs for 4 tasks on a node; give sbatch a larger --cpus-per-task" in done.stderr
    assert not done.words


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_no_script_names_a_cluster(script):
    options = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    assert options
    assert not any("account" in line or "partition" in line for line in options)
