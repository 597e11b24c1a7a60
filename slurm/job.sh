# shellcheck shell=bash
# What the scripts in this folder share. They source it in the project's folder.

fail() {
  echo "error: $*" >&2
  exit 2
}

if [[ -f slurm/site.env ]]; then
  # shellcheck source=/dev/null
  source slurm/site.env
fi
gpus=${SLURM_GPUS_ON_NODE:-0}
# One task for each GPU; without GPUs, as many as were asked for.
tasks=$((gpus > 0 ? gpus : ${SLURM_NTASKS_PER_NODE:-1}))
cpus=$((SLURM_CPUS_ON_NODE / tasks))
((cpus > 0)) ||
  fail "$SLURM_CPUS_ON_NODE CPUs for $tasks tasks on a node; give sbatch a larger --cpus-per-task"

# SLURM's signals are for the tasks, which save while this shell waits. SIGTERM comes here too if
# SLURM itself ends or requeues the job.
ended=
trap 'ended=1' TERM
trap : USR1

# The arguments of train.py that follow from the job; the user's come after them and win.
settings() {
  [[ -n ${MASTER_PORT:-} ]] || reserve_port
  local kind=cpu
  ((gpus == 0)) || kind=gpu
  words=(--trainer.accelerator "$kind")
  words+=(--data.workers $((cpus > 1 ? cpus - 1 : 1))) # one is for the training itself
  [[ -z ${BAGNET_CACHE_DIR:-} ]] || words+=(--data.cache_dir "$BAGNET_CACHE_DIR")
  [[ -z ${BAGNET_CACHE_GIB:-} ]] || words+=(--data.cache_gib "$BAGNET_CACHE_GIB")
}

# The ranks meet at a port of this node, the first one. Nobody else is given a port that somebody
# holds; as the holder does not listen, rank 0 can. Without a Python on the node, Lightning computes
# a port from the job's number.
reserve_port() {
  local python
  python=$(command -v python3 "${BAGNET_PYTHON:-.venv/bin/python}" | head -n 1) || true
  [[ -n $python ]] || return 0
  coproc HOLDER {
    exec "$python" -c "if True:
      import socket, sys
      holder = socket.socket()
      holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      holder.bind(('', 0))
      print(holder.getsockname()[1], flush=True)
      sys.stdin.read()  # until the job ends"
  }
  read -r MASTER_PORT <&"${HOLDER[0]}"
  export MASTER_PORT
}

# Run `python WORDS` in all tasks, in the container if there is one; then end or requeue the job.
start() {
  local mounts=$PWD:$PWD${BAGNET_MOUNTS:+,$BAGNET_MOUNTS} python=${BAGNET_PYTHON:-} code=0
  # Without --kill-on-bad-exit the other ranks would wait for one that has died. srun is told the
  # number of tasks, as sbatch may know more of them than GPUs, and of CPUs, which it does not take
  # from sbatch.
  local nodes=$SLURM_JOB_NUM_NODES
  local srun=(srun --kill-on-bad-exit=1 --nodes="$nodes" --ntasks-per-node="$tasks")
  srun+=(--ntasks=$((nodes * tasks)) --cpus-per-task="$cpus")
  # Neighboring tasks on the same socket, as neighboring GPUs usually are; by default, SLURM takes
  # the sockets in turn.
  srun+=(--distribution="${SLURM_DISTRIBUTION:-block:block}")
  local container=${BAGNET_CONTAINER:-}
  if [[ -z $container ]]; then
    python=${python:-.venv/bin/python}
    command -v "$python" >/dev/null ||
      fail "there is no $python; run \`make setup\`, or set BAGNET_PYTHON in slurm/site.env"
  elif [[ $container == *.sif || -d $container ]]; then
    srun+=(apptainer exec --nv --bind "$mounts" "$container")
  else
    srun+=(--container-image="$container" --container-mounts="$mounts")
    srun+=(--container-workdir="$PWD")
  fi
  echo "job $(job), start $((${SLURM_RESTART_COUNT:-0} + 1)):" \
    "$nodes x $tasks tasks with $cpus CPUs on $SLURM_JOB_NODELIST"
  "${srun[@]}" "${python:-python}" "$@" || code=$?
  # After USR1, the warning of the time limit. Or after a preemption in which the job saved within
  # its GraceTime, which SLURM mistakes for a failure.
  if ((code == 128 + 10)) || { ((code == 128 + 15)) && [[ -z $ended ]] && preempted; }; then
    requeue
  fi
  exit "$code"
}

# The job's number for scontrol; a task of an array has its own.
job() {
  if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then
    echo "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
  else
    echo "$SLURM_JOB_ID"
  fi
}

preempted() {
  [[ $(scontrol --oneliner show job "$(job)") == *" PreemptTime="[0-9]* ]]
}

requeue() {
  local why
  if why=$(scontrol requeue "$(job)" 2>&1); then
    echo "job $(job) is requeued, and will resume where it stopped"
  else
    echo "job $(job) could not be requeued: ${why#scontrol: };" \
      "submit the same command again to resume" >&2
  fi
}
