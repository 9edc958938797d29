#!/bin/bash
# Train with several GPUs, of one machine or of several, by one SLURM job:
#
#     sbatch --nodes=2 --gpus-per-node=4 train.sh cnn-train split.tsv -o model.pt --arch resnet18 --resume
#
# The words are those of cnn-train or cnn-finetune. The first process writes the model; all have to see the same files. With --resume, a job
# that was cut off continues from its checkpoint when it is submitted again. torchrun takes status 3, skipped images, for a failure: make a
# manifest without them first, with cnn-check --fix.
#
#SBATCH --job-name=cnn-train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
set -eu
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# One torchrun on each machine, which starts a process for each of its GPUs; without GPUs give PROCESSES
srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}" \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:${PORT:-29500}" --no-python "$@"
