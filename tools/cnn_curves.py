"""Draw training histories, in an image or in the terminal.

model.csv  other.csv   ->   curves.png    loss and accuracy, training and validation
"""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.errors import UsageError
from cnnkit.explain.config import CurveOptions


@cli.command
def main(
    histories: Annotated[
        list[Path] | None,
        cli.Argument(
            metavar="HISTORY.csv",
            show_default=False,
            help="The .csv written next to a model, or a log of Keras, ultralytics, Lightning or timm; several are compared. "
            "[default: standard input (-)]",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        cli.Option("--output", "-o", metavar="FILE", help="Image to write; FILE ends in .png, .svg or .pdf."),
    ] = None,
    *,
    shown: CurveOptions,
    plot: Annotated[
        bool,
        cli.Option("--plot", help="Draw as text even if stdout is not a terminal, for watch, less and log files."),
    ] = False,
    as_json: cli.options.Json = False,
) -> None:
    """Draw training histories: loss and accuracy, training and validation.

    On a terminal, draws the curves as text. In a pipe, prints a row for each epoch: run, epoch, the measures (smoothed with --smooth),
    lr, seconds, and whether it is the best epoch of the run; --plot draws there too. With -o, prints a row for each run: its best epoch
    and the measures of that epoch, or of the last epoch if there was no validation.

    The best epoch is chosen by the measured values; smoothing changes only the lines. Smoothing is bias-corrected, as in TensorBoard:
    the first value is unchanged. Values that are NaN are left out.

    Examples:
      cnn-curves model.csv
      watch cnn-curves --plot model.csv
      cnn-curves runs/*/model.csv -o curves.png --smooth 0.8 --monitor val_accuracy
      cnn-curves runs/*.csv | awk -F '\\t' 'NR == 1 || $NF == "true"'
    """
    from cnnkit.explain import curves

    if plot and (output is not None or as_json):
        raise UsageError(f"--plot draws on standard output; drop {'-o' if output is not None else '--json'}")
    if output is not None:
        from cnnkit.formats import figures

        figures.check(output)
    runs = curves.collect(cli.reading_each(histories, "training history"), smooth=shown.smooth, monitor=shown.monitor)
    if output is not None:
        from cnnkit.explain import curves_plot

        curves_plot.save(output, runs, monitor=shown.monitor)
        cli.emit([run.summary() for run in runs], as_json)
    elif plot or (cli.for_people() and not as_json):
        from cnnkit.explain import curves_text

        columns, lines = cli.screen_size()
        cli.emit_drawing(curves_text.draw(runs, columns=columns, lines=lines - 2, monitor=shown.monitor))
    else:
        cli.emit(curves.points(runs), as_json)


if __name__ == "__main__":
    main()
