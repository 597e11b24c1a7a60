#!/usr/bin/env bash
# Trains the networks of a study, and runs its experiments on them.
#
#   benchmarks/study.sh imagenette data/imagenette    docs/study.md, ten classes
#   benchmarks/study.sh tiny data/tiny                docs/study-tiny.md, 200 classes
#   benchmarks/study.sh imagenette data/imagenette 1 --gpus 1 --model.width 64
#                                                     with another seed than 0, and flags of train.py
#
# Runs are in runs (or $BAGNET_RUNS), tables and figures in results/STUDY-SEED. Of other seeds than
# 0, only accuracy, errors and scrambling are measured. A BagNet-17 with the fast recipe is compared
# with that of seed 0 in results/fast-imagenette. After a stop, the same command resumes.
set -euo pipefail
usage() { echo "usage: $0 imagenette|tiny SHARDS [SEED [FLAGS of train.py]]" >&2; exit 2; }
[[ $# -ge 2 ]] || usage
study=$1 shards=$2 seed=${3:-0}
shift $(($# < 3 ? $# : 3))
# The ordinary networks are best near the size that they were trained at; squares of 32 pixels, and
# tiles beside patches of 33, need images as large as those allow.
case $study in
  imagenette) size=96 counts=(1 2 4 8 16 32 64) ;;  # cells of 144, of 8x8 pixels
  tiny) size=48 counts=(1 2 4 8) ;;                 # of 36
  *) usage ;;
esac
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$here/.venv/bin/python
[[ -x $python ]] || python=python3
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}

train() {
  local name=$1
  shift
  "$python" "$here/train.py" fit "$@" --data.root "$shards" --seed_everything "$seed" \
    --name "$study-$name-$seed" --resume auto
  models+=("$name=$study-$name-$seed")
}
models=()
for name in bagnet9 bagnet17 bagnet33 vgg11 resnet50 densenet169; do
  train "$name" --config "$here/configs/study-$study.yaml" --model.name "$name" "$@"
done
bagnets=("${models[@]:0:3}")

measure() { "$python" -m bagnet.experiments "$@" --out "${out:-results/$study-$seed}"; }
data=(--data.root "$shards" --data.image_size "$size" --data.resize_size "$size")
measure accuracy --models "${models[@]}" "${data[@]}"
measure errors --top 1
measure scrambling --models "${models[@]}" "${data[@]}" --limit 500
if [[ $seed == 0 ]]; then
  measure interactions --models "${models[@]}" "${data[@]}" --limit 60
  measure sensitivity --models "${models[@]}" "${data[@]}" --limit 32 \
    --explainer bagnet9 bagnet17 bagnet33 --counts "${counts[@]}" --methods evidence \
    pixel_evidence gradient_x_input deeplift integrated_gradients gradcam random
  measure single_deletion --models "${models[@]}" "${data[@]}" --limit 24
  measure deletion --models "${bagnets[@]}" "${data[@]}" --limit 48
  measure aggregation --models "${bagnets[@]}" "${data[@]}" --limit 1000
  measure words --models "${bagnets[@]}" "${data[@]}" --limit 1000
  measure heatmaps --models "${bagnets[@]}" "${data[@]}"
  measure patches --models "${bagnets[@]}" "${data[@]}" --limit 1000 --other vgg11
fi
if [[ $study == imagenette && $seed == 0 ]]; then
  # The fast recipe with an average of the weights, in as many epochs and at the same size.
  fast=("bagnet17=$study-bagnet17-$seed")
  models=()
  train bagnet17fast --config "$here/configs/fast.yaml" \
    --config "$here/configs/study-$study.yaml" --model.name bagnet17 --model.schedule one-cycle \
    --model.learning_rate 0.4 --model.warmup_epochs 2 --model.ema 0.99 \
    --data.train_sizes '{0: 64}' "$@"
  out=results/fast-$study measure accuracy --models "${fast[@]}" "${models[@]}" "${data[@]}"
  out=results/fast-$study measure errors --top 1
fi
measure report
