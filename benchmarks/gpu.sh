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
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
exec "${python:-python3}" -m bagnet.bench gpu "$@"
