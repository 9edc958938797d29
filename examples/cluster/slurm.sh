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
# Shards and files count from 1, also with --array=0-7, where task 4 is shard 5/8.
#
#SBATCH --job-name=cnn-extract
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
set -eu
if [ $# -ne 2 ] || [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || [ -z "${SLURM_ARRAY_TASK_COUNT:-}" ]; then
    echo "usage: sbatch --array=1-N slurm.sh PHOTOS PARTS" >&2
    exit 2
fi
photos=$1
parts=$2
tasks=$SLURM_ARRAY_TASK_COUNT
shards=${SHARDS:-$tasks}
if [ "$tasks" -gt 1 ] && [ "$shards" -eq "$tasks" ]; then
    shard=auto # which refuses an array that is not a whole one
    number=$(((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN) / ${SLURM_ARRAY_TASK_STEP:-1} + 1))
else
    number=$SLURM_ARRAY_TASK_ID
    shard=$number/$shards
fi
mkdir -p "$parts"
# Status 3: images were skipped, which are listed in the .tsv; the job is done nevertheless
cnn-extract "$photos" --shard "$shard" -o "$parts/part-$number.npy" --resume --errors "$parts/skipped-$number.tsv" \
    ${BACKBONE:-"--backbone" "mobilenet_v2"} || [ $? -eq 3 ]
