#!/usr/bin/env bash
# Trains the networks of docs/study.md, and runs the experiments of that page on them.
#
#   benchmarks/study.sh data/imagenette       with seed 0, which the page shows
#   benchmarks/study.sh data/imagenette 1 --gpus 1 --model.width 64
#                                             with another one, and flags of train.py
#
# Runs are in runs (or $BAGNET_RUNS), tables and figures in results/study-0. After a stop, the same
# command resumes.
set -euo pipefail
[[ $# -ge 1 ]] || { echo "usage: $0 SHARDS [SEED [FLAGS of train.py]]" >&2; exit 2; }
shards=$1 seed=${2:-0}
shift $(($# < 2 ? $# : 2))
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$here/.venv/bin/python
[[ -x $python ]] || python=python3
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}

bagnets=() models=()
for name in bagnet9 bagnet17 bagnet33 vgg11 resnet50 densenet169; do
  "$python" "$here/train.py" fit --config "$here/configs/study.yaml" --data.root "$shards" \
    --model.name "$name" --seed_everything "$seed" --name "$name-$seed" --resume auto "$@"
  models+=("$name=$name-$seed")
  [[ $name != bagnet* ]] || bagnets+=("$name=$name-$seed")
done

measure() { "$python" -m bagnet.experiments "$@" --out "results/study-$seed"; }
# The nearest to the paper's setting at which squares of 8 to 32 pixels make sense.
data=(--data.root "$shards" --data.image_size 96 --data.resize_size 96)
measure accuracy --models "${models[@]}" "${data[@]}"
measure errors --top 1
measure interactions --models "${models[@]}" "${data[@]}" --limit 60
measure scrambling --models "${models[@]}" "${data[@]}" --limit 500
measure sensitivity --models "${models[@]}" "${data[@]}" --limit 32 \
  --explainer bagnet9 bagnet17 bagnet33 --counts 1 2 4 8 16 32 64 --methods evidence \
  pixel_evidence gradient_x_input deeplift integrated_gradients gradcam random
measure single_deletion --models "${models[@]}" "${data[@]}" --limit 24
measure deletion --models "${bagnets[@]}" "${data[@]}" --limit 48
measure aggregation --models "${bagnets[@]}" "${data[@]}" --limit 1000
measure words --models "${bagnets[@]}" "${data[@]}" --limit 1000
measure heatmaps --models "${bagnets[@]}" "${data[@]}"
measure patches --models "${bagnets[@]}" "${data[@]}" --limit 1000 --other vgg11
measure report
