#!/usr/bin/env bash
# Submits a training and its watcher: bash examples/slurm/submit.sh RUN
set -euo pipefail

RUN=${1:?usage: bash submit.sh RUN}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

training=$(sbatch --parsable "$HERE/train.sbatch" "$RUN")
# It begins when the training does: a watcher that waits in the directory would only wait on a GPU.
watcher=$(sbatch --parsable --dependency="after:$training" "$HERE/watch.sbatch" "$RUN")
echo "training $training, watcher $watcher; the record: $RUN/forget"
