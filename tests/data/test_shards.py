"""Shards: their blocks, how they are given, and the variables of torchrun, SLURM and Kubernetes."""

import pytest

from cnnkit.data import shards
from cnnkit.data.shards import Shard
from cnnkit.data.source import ImageFile
from cnnkit.errors import UsageError


@pytest.mark.parametrize(("total", "count"), [(10, 1), (10, 3), (3, 7), (0, 2), (8, 8)])
def test_blocks_cover_every_item_once(total, count):
    """In order, with lengths that differ by at most one."""
    parts = [Shard(number, count).share(range(total)) for number in range(1, count + 1)]
    assert [item for part in parts for item in part] == list(range(total))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_numbers_start_at_1():
    assert shards.parse("2/3").share("abcdef") == ["c", "d"]
    assert shards.parse("1/1").share("abc") == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0/4", "shards are 1/4 to 4/4; for a rank, which counts from 0, add 1"),
        ("5/4", "shards are 1/4 to 4/4"),
        ("1/0", "give the number of shards after the slash"),
        ("2", "give I/N, such as 2/8"),
        ("-1/4", "give I/N"),
        ("1 of 4", "give I/N"),
        ("", "give I/N"),
    ],
)
def test_rejects_other_notations(text, message):
    with pytest.raises(UsageError, match=message):
        shards.parse(text)


ARRAY = {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "7", "SLURM_ARRAY_TASK_STEP": "1"}


@pytest.mark.parametrize(
    ("variables", "shard", "origin"),
    [
        ({"RANK": "1", "WORLD_SIZE": "4"}, Shard(2, 4), "RANK=1, WORLD_SIZE=4"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "3"}, Shard(1, 3), "SLURM_PROCID=0, SLURM_NTASKS=3"),
        ({"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETION_COUNT": "3"}, Shard(3, 3), "JOB_COMPLETION_INDEX=2"),
        (
            {**ARRAY, "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"},
            Shard(4, 8),
            "SLURM_ARRAY_TASK_ID=3, SLURM_ARRAY_TASK_COUNT=8",
        ),
        (  # --array=1-8; a job has one task
            {
                **ARRAY,
                "SLURM_ARRAY_TASK_ID": "8",
                "SLURM_ARRAY_TASK_COUNT": "8",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_MAX": "8",
                "SLURM_NTASKS": "1",
                "SLURM_PROCID": "0",
            },
            Shard(8, 8),
            "SLURM_ARRAY_TASK_ID=8",
        ),
        (  # --array=0-6:2
            {
                "SLURM_ARRAY_TASK_ID": "4",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_MAX": "6",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            Shard(3, 4),
            "SLURM_ARRAY_TASK_ID=4",
        ),
        (  # torchrun within a job of SLURM
            {"RANK": "5", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
            Shard(6, 8),
            "RANK=5",
        ),
        *(  # a launcher of one process inside of another one of several
            (
                {"RANK": "0", "WORLD_SIZE": "1", **outer},
                Shard(3, 4),
                next(iter(outer)),
            )
            for outer in (
                {"SLURM_PROCID": "2", "SLURM_NTASKS": "4"},
                {"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETION_COUNT": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
                {
                    "SLURM_ARRAY_TASK_ID": "2",
                    "SLURM_ARRAY_TASK_COUNT": "4",
                    "SLURM_ARRAY_TASK_MIN": "0",
                    "SLURM_ARRAY_TASK_MAX": "3",
                },
            )
        ),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Shard(1, 1), "RANK=0"),
    ],
)
def test_auto_reads_the_variables_of_launchers(variables, shard, origin):
    found = shards.parse("auto", variables)
    assert found == shard
    assert found.origin.startswith(origin)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "none of RANK/WORLD_SIZE, SLURM_ARRAY_TASK_ID/SLURM_ARRAY_TASK_COUNT"),
        ({"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX is set, but not JOB_COMPLETION_COUNT"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "RANK is 4, and WORLD_SIZE only 4"),
        ({"RANK": "one", "WORLD_SIZE": "4"}, 'RANK is "one", which is not a number'),
        (  # --array=5, one shard again: not the whole set
            {
                "SLURM_ARRAY_TASK_ID": "5",
                "SLURM_ARRAY_TASK_COUNT": "1",
                "SLURM_ARRAY_TASK_MIN": "5",
                "SLURM_ARRAY_TASK_MAX": "5",
            },
            r"--shard \$SLURM_ARRAY_TASK_ID/N",
        ),
        (  # --array=1
            {
                "SLURM_ARRAY_TASK_ID": "1",
                "SLURM_ARRAY_TASK_COUNT": "1",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_MAX": "1",
            },
            r"--shard \$SLURM_ARRAY_TASK_ID/N",
        ),
        (  # --array=0,3,7
            {**ARRAY, "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "3"},
            "not a whole array from 0 or 1",
        ),
        (
            {
                **ARRAY,
                "SLURM_ARRAY_TASK_ID": "3",
                "SLURM_ARRAY_TASK_COUNT": "8",
                "SLURM_PROCID": "0",
                "SLURM_NTASKS": "2",
            },
            "an array of jobs with several tasks each; give --shard I/N",
        ),
        (  # torchrun --standalone in each pod
            {
                "RANK": "1",
                "WORLD_SIZE": "2",
                "JOB_COMPLETION_INDEX": "5",
                "JOB_COMPLETION_COUNT": "8",
            },
            "WORLD_SIZE is 2, but JOB_COMPLETION_COUNT 8: each of 8 tasks starts 2 processes",
        ),
    ],
)
def test_auto_rejects_variables_that_name_no_shard(variables, message):
    with pytest.raises(UsageError, match=message):
        shards.parse("auto", variables)


def test_digest_depends_on_order_and_labels():
    one, two = ImageFile("a.jpg", "cat"), ImageFile("b.jpg", "cat")
    digests = {
        shards.list_digest(images) for images in ([one, two], [two, one], [one], [one, ImageFile("b.jpg", "dog")])
    }
    assert len(digests) == 4
    assert shards.list_digest([one, two]) == shards.list_digest([ImageFile("a.jpg", "cat"), ImageFile("b.jpg", "cat")])
