"""Train a head on extracted features, and join it to the backbone that made them.

train.npy train.tsv train.json   ->  head.pt    the whole network: backbone and head
val.npy   val.tsv   val.json         head.csv   its history, one row per epoch

With --with, no file is written: three rows on stdout, for the features, with additional inputs, and for those inputs alone.
"""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.choices import Solver
from cnnkit.engine import device as devices
from cnnkit.errors import UsageError
from cnnkit.option_fields import refuse_unused
from cnnkit.train import config
from cnnkit.train.config import HeadConfig
from cnnkit.train.find_lr_config import FindLrConfig


@cli.command
def main(
    features: Annotated[
        Path,
        cli.Argument(metavar="TRAIN.npy", show_default=False, help="Training features, made by cnn-extract."),
    ],
    output: Annotated[
        Path | None,
        cli.Option(
            "--output",
            "-o",
            metavar="FILE.pt",
            help="Model to write; an existing file is replaced at the end. [required unless --with or --find-lr]",
        ),
    ] = None,
    val: Annotated[
        Path | None,
        cli.Option(
            "--val",
            metavar="FILE.npy",
            help="Validation features, which select the best epoch. [default: rows of TRAIN.npy whose split is val, if any]",
        ),
    ] = None,
    hold_out: cli.options.HoldOut = None,
    *,
    train: HeadConfig,
    find: FindLrConfig,
    weights: Annotated[
        Path | None,
        cli.Option(
            "--weights",
            metavar="FILE",
            help="Weights of the backbone: a state_dict file. [default: found in the cache]",
        ),
    ] = None,
    with_: Annotated[
        str | None,
        cli.Option(
            "--with",
            metavar="NAME,...",
            help="Write no model; compare heads trained with and without additional inputs: width, height, aspect, bytes, or "
            "columns of a manifest. A gain points to a leak.",
        ),
    ] = None,
    columns: Annotated[
        Path | None,
        cli.Option(
            "--columns",
            metavar="FILE.tsv",
            help="With --use and --with: manifest with the columns, one row per image. [default for --use: the .tsv of the features]",
        ),
    ] = None,
    device: cli.options.Device = "auto",
    as_json: cli.options.Json = False,
) -> None:
    """Train a head on extracted features, and join it to the backbone that made them.

    Reads features by cnn-extract, and writes the whole network, backbone and head, to FILE.pt and its history to FILE.csv. The epoch
    with the best validation measure is kept. --standardize, --pca and --whiten are fitted on the training set and become part of the
    head.

    --hold-out uses one split of TRAIN.npy for validation, for example to train one head per fold (examples/folds/). If an epoch
    or a penalty is selected on it, its accuracy is slightly too high; --solver lbfgs --l2 X selects nothing.

    --with writes no file: the same head is trained on the features, on the features with additional inputs, and on these inputs
    alone, and compared on the validation set.

    --use trains a model that takes metadata as a second input: numbers are standardized, words are one-hot encoded, both as fitted on the
    training set, and appended to the features. A column whose training values are all numbers is a number; NAME:category one-hot encodes
    it all the same. cnn-predict finds the columns in its SOURCE or in --columns FILE.tsv.

    Examples:
      cnn-train-head train.npy --val val.npy -o head.pt --head "dense 256 relu, dropout 0.5"
      cnn-train-head train.npy --val val.npy -o head.pt --solver lbfgs --standardize
      cnn-train-head train.npy --val val.npy -o head.pt --optimizer rmsprop --lr 2e-5 \\
          --epochs 30 --batch 20 --loss binary
      cnn-train-head all.npy --hold-out fold0 -o fold0.pt --solver lbfgs --l2 0.001
      cnn-train-head train.npy --val val.npy --solver lbfgs --with width,height
      cnn-train-head train.npy --head "dense 256 relu" --find-lr lr.png
      cnn-train-head train.npy --val val.npy -o two.pt --use width,camera --columns photos.tsv
    """
    from cnnkit.train import feature_sets

    has_val = val is not None or hold_out is not None or feature_sets.has_own_val(features)
    if find.find_lr is not None:
        refuse_unused({"--with": with_ is not None, "--weights": weights is not None}, "--find-lr writes no model")
        if train.solver is Solver.LBFGS:
            raise UsageError("--solver lbfgs has no learning rate; drop --find-lr, or use --solver gradient")
        figure = find.checked(train, output=output)
    elif with_ is not None:
        for word, value in {"-o": output, "--weights": weights}.items():
            if value is not None:
                raise UsageError(f"--with writes no model; drop {word}")
        if train.use is not None:
            raise UsageError("--with compares models with and without columns; drop --use")
        if not has_val:
            raise UsageError("--with needs a validation set; give --val or --hold-out")
    if columns is not None and train.use is None and with_ is None:
        raise UsageError("--columns goes with --use and --with; name the columns with --use NAME,...")
    train = train.checked(has_val=has_val)
    devices.parse(device)
    if find.find_lr is not None:
        data = feature_sets.load(features, val=None, hold_out=hold_out, loss=train.loss, validates=False)

        from cnnkit.train import find_lr, find_lr_plot, head

        used = feature_sets.columns(data, tuple(train.kinds), columns)
        with cli.callbacks("finding a learning rate") as callbacks:
            steps = head.find_lr(data, train=train, device=device, columns=used, callbacks=callbacks)
        cli.emit(find_lr_plot.conclude(steps, figure), as_json, columns=find_lr.COLUMNS)
        return
    model = config.model_path(output) if with_ is None else None
    config.check_weights(weights, features=features)

    if model is None:
        from cnnkit.data import column_names, image_columns

        side = image_columns.Columns(column_names.parse_names(with_ or ""), columns)
        data = feature_sets.load(features, val=val, hold_out=hold_out, loss=train.loss)

        from cnnkit.audit import ablation

        with cli.callbacks("training") as callbacks:
            found = ablation.measure(data, side, train=train, device=device, callbacks=callbacks)
        cli.emit(found, as_json)
        return
    data = feature_sets.load(features, val=val, hold_out=hold_out, loss=train.loss)

    from cnnkit.train.head import train_head

    used = feature_sets.columns(data, tuple(train.kinds), columns)
    with cli.callbacks("training") as callbacks:
        result = train_head(data, model, train=train, weights=weights, device=device, columns=used, callbacks=callbacks)
    cli.emit([result], as_json)


if __name__ == "__main__":
    main()
