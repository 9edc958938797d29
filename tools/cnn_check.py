"""cnn-check: check a dataset before training."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cnnkit import cli, packages
from cnnkit.audit.config import CheckConfig, LabelsConfig
from cnnkit.choices import CheckTable, FolderReading
from cnnkit.errors import UsageError
from cnnkit.formats import atomic, manifest


@cli.image_command
def main(
    sources: cli.options.Sources = None,
    *,
    config: CheckConfig,
    fix: Annotated[
        Path | None,
        cli.Option(
            "--fix",
            metavar="FILE.tsv",
            help="Write a manifest without broken and duplicate images, with groups of images that must share a split.",
        ),
    ] = None,
    fail: Annotated[bool, cli.Option("--fail", help="Exit with status 4 if there is an error or a warning.")] = False,
    table: Annotated[
        CheckTable | None,
        cli.Option("--table", help="Table to print. [default: findings; on a terminal all three]", show_default=False),
    ] = None,
    split: cli.options.Split = None,
    folders: cli.options.Folders = None,
    null: cli.options.Null = False,
    output_file: cli.options.TableFile = None,
    as_json: cli.options.Json = False,
    by_labels: LabelsConfig,
) -> None:
    """Check a dataset before training: list errors, warnings and notes.

    Reads class folders (photos/CLASS/image.jpg), a manifest or a list of paths. Prints a row for each finding: errors (not an image;
    one image with two labels or in two splits), warnings (sizes, class balance, leaks) and notes.

    A leak probe is a small decision tree that predicts the class, or the split, from one property alone: width, height, aspect, bytes,
    format, JPEG quality, mean or border colour, camera, time, name or number of an image, or from all except the colours. If it does so
    well above chance, a network may learn that property instead of the content. Leaks by time or order are only notes, because images
    are often taken class by class.

    Accuracies of probes are balanced and cross-validated. A probe is well above chance if its accuracy covers at least a tenth of the
    distance from chance to 100 %, and is significant at 5 % among all probes of the class, or of the split (Holm's correction). P-values
    are measured on shuffled labels; the smallest possible one is about 0.003, or 0.01 for a probe that is not well above chance.

    With --shard I/N, each of N machines reads a share of the images, for large sets with many broken files. Duplicates in two shards are
    not found, and classes, splits, groups and leaks are not checked: that needs a run without --shard.

    With --labels or --predictions, checks only the labels, by confident learning. Prints a row for each image whose label is not the class
    predicted by a head that was trained on other images, lowest probability of the label first: path, label, suggested label, its
    probability (confidence), that of the label (self_confidence), and suspect, which is true for the estimated number of wrong labels.
    Images of one group, crops of one file and copies share a fold. Labels and groups are those of SOURCE or, with --labels and without
    SOURCE, of the features. --fix writes a manifest without the suspects; --fail exits with status 4 if there is a suspect.

    To correct labels after a look at the images, set suspect to true or false in the table, and give it with --corrections: suspects get
    the suggested label.

    Examples:
      cnn-check photos/
      cnn-check split.tsv --fail && make train
      cnn-check photos/ -o findings.tsv
      cnn-check photos/ --fix clean.tsv && cnn-split clean.tsv --ratio 70,15,15 > split.tsv
      cnn-check split.tsv --features x.npy --table findings | grep neighbour
      cnn-check photos/ --table probes --probes width,height,bytes
      cnn-check --labels features.npy --sheet suspects.png -o suspects.tsv
      cnn-check split.tsv --corrections suspects.tsv --fix corrected.tsv
      cnn-check split.tsv --labels features.npy --fix clean.tsv
      cnn-check folds.tsv --predictions out-of-fold.tsv | head -n 20
    """
    inputs = [*(sources or []), config.features, by_labels.labels, by_labels.predictions, by_labels.corrections]
    outputs = {"--fix": fix, "--sheet": by_labels.sheet}
    as_json = cli.to_file(output_file, as_json, inputs=inputs, outputs=outputs)
    config = config.checked()
    by_labels = by_labels.checked(
        config,
        sources=sources or [],
        fix=fix,
        unused={"--table": table},
        unused_without_source={"--folders": folders, "--null": null},
    )
    if config.shard is not None and (fix is not None or table is CheckTable.PROBES):
        unused = "--table probes" if fix is None else "--fix"
        raise UsageError(f"{unused} needs all images, and --shard reads a share of them; drop one of the two")
    if table is CheckTable.PROBES:
        packages.demand("sklearn", what="--table probes")
    if fix is not None:
        manifest.check_name(fix, option="--fix")
        atomic.check_folder(fix)
        if any(os.path.realpath(fix) == os.path.realpath(source) for source in sources or []):
            raise UsageError(f"--fix {fix} would replace the manifest that is checked; choose another name")
    if by_labels.wanted:
        reading = _Reading(sources, split, folders, null)
        _check_labels(by_labels, reading, fix=fix, fail=fail, seed=config.seed, jobs=config.jobs, as_json=as_json)
        return

    from cnnkit.audit import advice, check, check_report, fixed_manifest
    from cnnkit.audit.record import Level
    from cnnkit.data.search_log import SearchLog

    search = SearchLog()
    with cli.callbacks("checking") as callbacks:
        images = cli.images(sources, split=split, null=null, folders=folders, search=search)
        if by_labels.corrections is not None:
            from cnnkit.audit import label_corrections

            images = label_corrections.apply(images, by_labels.corrections)
        found = check.check(images, config, search=search, progress=callbacks.progress, phase=callbacks.phase)
    left = None
    if fix is not None:
        left = fixed_manifest.fixed(found)
        manifest.save(fix, manifest.moved(left.rows, fix.parent), columns=manifest.columns(left.rows))
    counts = {f"{level}s": found.count(level) for level in Level}
    with cli.gated({}, none={name: counts[name] for name in ("errors", "warnings")} if fail else {}):
        if cli.for_people() and not as_json:
            cli.emit_tables(found.tables(table))
        else:
            wanted = table or CheckTable.FINDINGS
            cli.emit(found.rows(wanted), as_json, columns=check_report.columns(wanted))
        summary = ", ".join(f"{count:,} {name if count != 1 else name[:-1]}" for name, count in counts.items())
        passed = "; the exit status is 0, with --fail it is 4" if counts["errors"] and not fail else ""
        cli.notice(f"{summary}{passed}")
        if left is not None:
            gone = ", ".join(f"{reason} {count:,}" for reason, count in left.left_out.items())
            cli.notice(f"{fix}: {len(left.rows):,} of {found.listed:,} images{f'; left out: {gone}' if gone else ''}")
        if config.shard is not None:
            cli.notice("not checked in a shard: classes, splits, groups, leaks, and duplicates in other shards")
            return
        words = (sources or ["-"]) if fix is None else [str(fix)]
        for line in advice.advise(found, words, fixed=None if left is None else left.rows):
            cli.notice(line)


@dataclass(frozen=True, slots=True)
class _Reading:
    """The sources of the command line, and how they are read."""

    sources: list[str] | None
    split: str | None
    folders: FolderReading | None
    null: bool


def _check_labels(
    config: LabelsConfig,
    reading: _Reading,
    *,
    fix: Path | None,
    fail: bool,
    seed: int,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Check the labels by features or predictions, and print the doubted ones."""
    from cnnkit.audit import label_corrections, label_errors

    sources = reading.sources
    listed = None
    if sources or config.predictions is not None:
        listed = cli.images(
            sources,
            split=reading.split,
            folders=reading.folders,
            null=reading.null,
            opens=config.sheet is not None,
        )
        if config.corrections is not None:
            listed = label_corrections.apply(listed, config.corrections)
    with cli.callbacks("checking labels") as callbacks:
        if config.labels is not None:
            held_out = label_errors.cross_validated(
                config.labels, images=listed, split=reading.split, seed=seed, progress=callbacks.progress
            )
        else:
            with cli.reading(config.predictions, "predictions") as (file, name):
                held_out = label_errors.predicted(file, listed or [], name=name, source=", ".join(sources or ["-"]))
        found = label_errors.check(held_out)
        if config.sheet is not None:
            from cnnkit.audit import label_sheet

            callbacks.phase("drawing")
            label_sheet.save(config.sheet, found.doubted, jobs=jobs, skip=callbacks.skip)
    if fix is not None:
        rows = found.fixed()
        manifest.save(fix, manifest.moved(rows, fix.parent), columns=manifest.columns(rows))
    with cli.gated({}, none={"suspect labels": len(found.suspects)} if fail else {}):
        cli.emit(found.doubted, as_json, columns=label_errors.COLUMNS)
        for line in label_errors.summary(found):
            cli.notice(line)
        if fix is not None:
            left_out = f"; left out: suspect labels {len(found.suspects):,}" if found.suspects else ""
            cli.notice(f"{fix}: {len(rows):,} of {len(found.listed):,} images{left_out}")
        elif found.suspects:
            named = sources or [str(config.labels and config.labels.with_suffix(".tsv"))]
            cli.notice(label_errors.next_step(named))


if __name__ == "__main__":
    main()
