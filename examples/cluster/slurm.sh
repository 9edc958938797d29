#!/bin/bash
# Extract the features of a folder of images by the jobs of a SLURM array:
#
#     sbatch --array=1-8 slurm.sh photos/ parts
#     cnn-extract --join parts/part-*.npy -o features.npy
#
# The second command names a shard that is missing. It is extracted again alone, from where it stopped:
#
#     SHARDS=8 sbatch --array=5 slurm.sh photos/ parts
#
# The number of a task is that of its shard, so arrays begin at 1: of --array=0-7, task 4 would be shard 5/8, and run again alone 4/8.
#
#SBATCH --job-name=cnn-extract
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
set -eu
number=${SLURM_ARRAY_TASK_ID:-0} tasks=${SLURM_ARRAY_TASK_COUNT:-0}
if [ -n "${SHARDS:-}" ]; then
    shards=$SHARDS # some of the tasks, run again
elif [ "$tasks" -gt 1 ] && [ "$SLURM_ARRAY_TASK_MIN" -eq 1 ] && [ "$SLURM_ARRAY_TASK_MAX" -eq "$tasks" ]; then
    shards=$tasks
else
    shards=0
fi
if [ $# -ne 2 ] || [ "$number" -eq 0 ] || [ "$shards" -eq 0 ]; then
    echo "usage: sbatch --array=1-N slurm.sh PHOTOS PARTS" >&2
    echo "or, for shard 5 alone: SHARDS=N sbatch --array=5 slurm.sh PHOTOS PARTS" >&2
    exit 2
fi
photos=$1
parts=$2
mkdir -p "$parts"
# Status 3: images were skipped, which are listed in the .tsv; the job is done nevertheless
cnn-extract "$photos" --shard "$number/$shards" -o "$parts/part-$number.npy" --resume --errors "$parts/skipped-$number.tsv" \
    ${BACKBONE:-"--backbone" "mobilenet_v2"} || [ $? -eq 3 ]
