"""cnn-check: is this set of images fit for training?"""

import os
from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.choices import CheckTable, ProbeName
from cnnkit.errors import UsageError


@cli.command
def main(
    sources: cli.options.Sources = None,
    features: Annotated[
        Path | None,
        cli.Option(
            "--features",
            metavar="X.npy",
            help="Features of the pictures, from cnn-extract: look for neighbours in them, too.",
        ),
    ] = None,
    similarity: Annotated[
        float | None,
        cli.Option(
            "--similarity",
            min=0.0,
            max=1.0,
            metavar="COSINE",
            show_default=False,
            help="With --features: from here on two are neighbours. [default: 0.93]",
        ),
    ] = None,
    near_bits: Annotated[
        int,
        cli.Option(
            "--near-bits",
            min=0,
            max=80,
            metavar="N",
            help="Bits of 256 by which the perceptual hashes of two pictures that look alike may differ.",
        ),
    ] = 40,
    probes: Annotated[
        str,
        cli.Option(
            "--probes", metavar="A,B,...", help=f"Which leak probes: all, none, or some of {', '.join(ProbeName)}."
        ),
    ] = "all",
    fix: Annotated[
        Path | None,
        cli.Option(
            "--fix",
            metavar="OUT.tsv",
            help="Write a manifest without the broken and the duplicate, with groups for what must stay together.",
        ),
    ] = None,
    fail: Annotated[bool, cli.Option("--fail", help="Exit 4 if there is an error or a warning.")] = False,
    table: Annotated[
        CheckTable | None,
        cli.Option("--table", help="What to print. [default: findings; on a terminal all]", show_default=False),
    ] = None,
    split: cli.options.Split = None,
    null: cli.options.Null = False,
    seed: cli.options.Seed = 0,
    jobs: cli.options.Jobs = None,
    as_json: cli.options.Json = False,
) -> None:
    """Say what is wrong with a set of pictures before it is trained on.

    Findings, a record each: errors (no picture; one picture with two labels or in two parts), warnings (sizes, balance, leaks)
    and notes. A leak probe is a small decision tree, cross-validated, that sees one thing and nothing else: width, height, aspect,
    bytes, format, JPEG quality, mean or border colour, camera, time, name or number of a picture, or all but the colours together. One
    that tells the class, or train from test, well above chance is a warning: a network will learn that, too. Well above: significant
    (5 % for all probes of a target) and a tenth of the way from chance to certainty. Accuracies are balanced; a p of 0.01 may be
    smaller where nothing hangs on it.

    Examples:
      cnn-check photos/
      cnn-check split.tsv --fail && make train
      cnn-check photos/ --fix clean.tsv && cnn-split clean.tsv --ratio 70,15,15 > split.tsv
      cnn-check split.tsv --features x.npy --table findings | grep neighbour
      cnn-check photos/ --table probes --probes width,height,bytes
    """
    from cnnkit.audit import advice, check, fixed_manifest, neighbours, report
    from cnnkit.audit.record import Level
    from cnnkit.formats import manifest

    names = check.parse_probes(probes)
    if similarity is not None and features is None:
        raise UsageError("--similarity is that of features; give them with --features X.npy")
    if fix is not None:
        manifest.check_name(fix, option="--fix")
        if any(os.path.realpath(fix) == os.path.realpath(source) for source in sources or []):
            raise UsageError(f"--fix {fix} would replace what is checked, and what was left out would be forgotten")
    with cli.progress("checking") as progress:
        found = check.check(
            cli.images(sources, split=split, null=null),
            features=features,
            near=near_bits,
            similarity=neighbours.NEAR if similarity is None else similarity,
            names=names,
            seed=seed,
            jobs=jobs,
            progress=progress,
        )
    left = None
    if fix is not None:
        left = fixed_manifest.fixed(found)
        manifest.save(fix, manifest.moved(left.rows, fix.parent), columns=manifest.columns(left.rows))
    counts = {f"{level}s": found.count(level) for level in Level}
    bounds = {name: (counts[name], 0.0) for name in ("errors", "warnings")} if fail else {}
    with cli.gated({}, at_most=bounds):
        if cli.for_people() and not as_json:
            cli.emit_tables(found.tables(table))
        else:
            wanted = table or CheckTable.FINDINGS
            cli.emit(found.rows(wanted), as_json, columns=report.columns(wanted))
        cli.notice(", ".join(f"{count:,} {name if count != 1 else name[:-1]}" for name, count in counts.items()))
        if left is not None:
            gone = ", ".join(f"{reason} {count:,}" for reason, count in left.left_out.items())
            cli.notice(f"{fix}: {len(left.rows):,} of {found.listed:,} pictures{f'; left out: {gone}' if gone else ''}")
        words = (sources or ["-"]) if fix is None else [str(fix)]
        for line in advice.advise(found, words, fixed=None if left is None else left.rows):
            cli.notice(line)


if __name__ == "__main__":
    main()
