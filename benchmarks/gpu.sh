#!/usr/bin/env bash
# Measures and checks training on the GPU of this machine: about half an hour on an H100.
#
#   benchmarks/gpu.sh                   all pieces; the summary is in results/gpu/summary.md
#   benchmarks/gpu.sh steps-128 train   only these, each in less than ten minutes
#   benchmarks/gpu.sh --rehearse        every piece at toy size on the CPU
#   benchmarks/gpu.sh --help            the pieces and the options
#
# It needs a checkout and what requirements.txt lists, in .venv, $BAGNET_PYTHON or python3.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${BAGNET_PYTHON:-}
[[ -n $python || ! -x $here/.venv/bin/python ]] || python=$here/.venv/bin/python
python=${python:-python3}
"$python" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("pytorch_lightning"))' || {
  echo "error: $python lacks the packages in requirements.txt;" \
    "run \`make setup\`, or set BAGNET_PYTHON" >&2
  exit 2
}
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m bagnet.bench gpu "$@"
