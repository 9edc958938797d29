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
#SBATCH --job-name=cnn-extract
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
set -eu
photos=$1
parts=$2
shards=${SHARDS:-$SLURM_ARRAY_TASK_COUNT}
mkdir -p "$parts"
# Status 3: images were skipped, which are listed in the .tsv; the job is done nevertheless
cnn-extract "$photos" --shard "$SLURM_ARRAY_TASK_ID/$shards" -o "$parts/part-$SLURM_ARRAY_TASK_ID.npy" --resume \
    --errors "$parts/skipped-$SLURM_ARRAY_TASK_ID.tsv" ${BACKBONE:-"--backbone" "mobilenet_v2"} || [ $? -eq 3 ]
