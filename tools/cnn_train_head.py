"""Train a head on features from disk, and put it on the backbone that made them.

train.npy train.tsv train.json   ->  head.pt    the whole network: backbone and head
val.npy   val.tsv   val.json         head.csv   its history, one row an epoch

with --with, nothing is written: three records on stdout, of the features, of more inputs beside them, and of those alone
"""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.engine import device as devices
from cnnkit.errors import UsageError
from cnnkit.train import config
from cnnkit.train.config import HeadConfig


@cli.command
def main(
    features: Annotated[
        Path,
        cli.Argument(metavar="TRAIN.npy", show_default=False, help="Features to learn from, made by cnn-extract."),
    ],
    output: Annotated[
        Path | None, cli.Option("--output", "-o", metavar="FILE.pt", help="Where the model goes; replaced in one step.")
    ] = None,
    val: Annotated[
        Path | None,
        cli.Option(
            "--val", metavar="VAL.npy", help="Features that choose the best epoch; nothing else is looked at to choose."
        ),
    ] = None,
    hold_out: cli.options.HoldOut = None,
    *,
    train: HeadConfig,
    weights: Annotated[
        Path | None,
        cli.Option("--weights", metavar="FILE", help="The base's state_dict, should it be in no cache any more."),
    ] = None,
    with_: Annotated[
        str | None,
        cli.Option(
            "--with",
            metavar="NAME,...",
            help="Write no model; tell what width, height, aspect, bytes or columns of a manifest are worth beside the "
            "features, and alone. Much: a leak.",
        ),
    ] = None,
    columns: Annotated[
        Path | None,
        cli.Option("--columns", metavar="MANIFEST.tsv", help="With --with: where its columns stand, a row a picture."),
    ] = None,
    device: cli.options.Device = "auto",
    as_json: cli.options.Json = False,
) -> None:
    """Train a head on features from disk, and put it on the base that made them.

    Writes the whole network, base and head, to FILE.pt and the history to FILE.csv. The best epoch by the validation measure is
    kept. Standardising, PCA and whitening are fitted on the training rows and become part of the head.

    With --hold-out one part of the features validates: a head for each fold. Where it chooses an epoch or a penalty, its accuracy is a
    little too good; --solver lbfgs --l2 X chooses nothing. With --with nothing is written: the same head is trained on the features, on
    more inputs beside them, and on those alone, and compared on the same pictures.

    Examples:
      cnn-train-head train.npy --val val.npy -o head.pt --head "dense 256 relu, dropout 0.5"
      cnn-train-head train.npy --val val.npy -o head.pt --solver lbfgs --standardize
      cnn-train-head train.npy --val val.npy -o head.pt --optimizer rmsprop --lr 2e-5 --epochs 30 --batch 20 --loss binary
      cnn-train-head all.npy --hold-out fold0 -o fold0.pt --solver lbfgs --l2 0.001
      cnn-train-head train.npy --val val.npy --solver lbfgs --with width,height
    """
    from cnnkit.train import feature_sets

    has_val = val is not None or hold_out is not None or feature_sets.has_own_val(features)
    if with_ is not None:
        for word, value in {"-o": output, "--weights": weights}.items():
            if value is not None:
                raise UsageError(f"--with writes no model; drop {word}")
        if not has_val:
            raise UsageError("--with compares on pictures that were not learnt from; give --val or --hold-out")
    elif columns is not None:
        raise UsageError("--columns says where the columns of --with stand; say which with --with NAME,...")
    train = train.checked(has_val=has_val)
    model = config.model_path(output) if with_ is None else None
    devices.parse(device)
    config.check_weights(weights, features=features)

    if model is None:
        from cnnkit.audit import side_information

        side = side_information.Columns(side_information.parse_names(with_ or ""), columns)
        data = feature_sets.load(features, val=val, hold_out=hold_out, loss=train.loss)

        from cnnkit.audit import ablation

        with cli.callbacks("training") as callbacks:
            found = ablation.measure(data, side, train=train, device=device, callbacks=callbacks)
        cli.emit(found, as_json)
        return
    data = feature_sets.load(features, val=val, hold_out=hold_out, loss=train.loss)

    from cnnkit.train.head import train_head

    with cli.callbacks("training") as callbacks:
        result = train_head(data, model, train=train, weights=weights, device=device, callbacks=callbacks)
    cli.emit([result], as_json)


if __name__ == "__main__":
    main()
