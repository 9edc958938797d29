"""cnn-check: is this set of pictures fit for training?"""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.choices import CheckTable, ProbeName


@cli.command
def main(
    sources: cli.Sources = None,
    features: Annotated[
        Path | None,
        cli.Option(
            "--features",
            metavar="X.npy",
            help="Features of the pictures, from cnn-extract: look for neighbours in them, too.",
        ),
    ] = None,
    similarity: Annotated[
        float,
        cli.Option(
            "--similarity", min=0.0, max=1.0, metavar="COSINE", help="--features: from here on two are neighbours."
        ),
    ] = 0.93,
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
    split: cli.Split = None,
    null: cli.Null = False,
    seed: cli.Seed = 0,
    jobs: cli.Jobs = None,
    as_json: cli.Json = False,
) -> None:
    """Say what is wrong with a set of pictures before it is trained on.

    Findings, a record each: errors (no picture; one picture with two labels or in two parts), warnings (sizes, balance, leaks)
    and notes. A leak probe is a small decision tree, cross-validated, that sees one thing and nothing else: width, height, aspect,
    bytes, format, JPEG quality, mean or border colour, camera, time, name or number of a picture. One that tells the class, or train from
    test, well above chance is a warning: a network will learn that, too.

    Examples:
      cnn-check photos/
      cnn-check split.tsv --fail && make train
      cnn-check photos/ --fix clean.tsv && cnn-split clean.tsv --ratio 70,15,15 > split.tsv
      cnn-check split.tsv --features x.npy --table findings | grep neighbour
      cnn-check photos/ --table probes --probes width,height,bytes
    """
    from cnnkit.audit import advice, check, fixing, report
    from cnnkit.audit.record import Level
    from cnnkit.formats import manifest

    names = check.demanded(probes)
    if fix is not None:
        manifest.check_name(fix, option="--fix")
    with cli.progress("checking") as progress:
        found = check.check(
            cli.pictures(sources, split=split, null=null),
            features=features,
            near=near_bits,
            similarity=similarity,
            names=names,
            seed=seed,
            jobs=jobs,
            progress=progress,
        )
    rows = None
    if fix is not None:
        rows = fixing.fixed(found)
        manifest.save(fix, manifest.moved(rows, fix.parent), columns=manifest.columns(rows))
        cli.notice(f"{fix}: {len(rows):,} of {found.listed:,} pictures")
    counts = {f"{level}s": found.count(level) for level in Level}
    bounds = {name: (counts[name], 0.0) for name in ("errors", "warnings")} if fail else {}
    with cli.gated({}, at_most=bounds):
        if table is None and cli.for_people() and not as_json:
            cli.emit_tables(found.tables())
        else:
            wanted = table or CheckTable.FINDINGS
            cli.emit(found.rows(wanted), as_json, columns=report.columns(wanted))
        cli.notice(", ".join(f"{count:,} {name if count != 1 else name[:-1]}" for name, count in counts.items()))
        for line in advice.advise(found, (sources or ["-"]) if fix is None else [str(fix)], fixed=rows):
            cli.notice(line)


if __name__ == "__main__":
    main()
