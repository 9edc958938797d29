"""Train a head on features from disk, and put it on the base that made them.

train.npy train.tsv train.json   ->  head.pt    the whole network: base and head
val.npy   val.tsv   val.json         head.csv   its history, one row an epoch

with --with, nothing is written: three records on stdout, of the features, of more inputs beside them, and of those alone
"""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.choices import ClassWeights, Initializer, Loss, Monitor, Optimizer, Solver
from cnnkit.errors import UsageError


@cli.command
def main(
    train: Annotated[
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
    hold_out: cli.HoldOut = None,
    head: Annotated[
        str,
        cli.Option(
            "--head",
            metavar="NOTATION",
            help="Layers before the last dense one, which is added; or @FILE. [default: none]",
        ),
    ] = "",
    loss: Annotated[
        Loss, cli.Option("--loss", help="Softmax over classes, or one sigmoid for two.")
    ] = Loss.CATEGORICAL,
    solver: Annotated[
        Solver, cli.Option("--solver", help="lbfgs: logistic regression, no learning rate to tune.")
    ] = Solver.GRADIENT,
    optimizer: Annotated[Optimizer, cli.Option("--optimizer", help="How weights follow gradients.")] = Optimizer.ADAM,
    lr: Annotated[
        float | None,
        cli.Option("--lr", min=0.0, show_default=False, help="Learning rate. [default: 0.001; 0.01 for sgd]"),
    ] = None,
    epochs: Annotated[int, cli.Option("--epochs", min=1, help="The most epochs.")] = 50,
    batch: cli.Batch = 32,
    l1: Annotated[
        float, cli.Option("--l1", min=0.0, help="Penalty on the sum of |w|; with --l2 the elastic net.")
    ] = 0.0,
    l2: Annotated[
        float,
        cli.Option(
            "--l2",
            min=0.0,
            help="Penalty on the sum of w squared. lbfgs chooses it on the validation rows unless said.",
        ),
    ] = 0.0,
    init: Annotated[Initializer, cli.Option("--init", help="How weights start.")] = Initializer.GLOROT,
    class_weights: Annotated[
        ClassWeights, cli.Option("--class-weights", help="What a picture of each class counts for.")
    ] = ClassWeights.NONE,
    standardize: Annotated[bool, cli.Option("--standardize", help="Mean 0 and deviation 1 for every feature.")] = False,
    pca: Annotated[int | None, cli.Option("--pca", min=1, metavar="N", help="Keep N principal components.")] = None,
    whiten: Annotated[bool, cli.Option("--whiten", help="Deviation 1 for every principal component.")] = False,
    patience: Annotated[
        int | None, cli.Option("--patience", min=1, help="Stop after this many epochs without a better one.")
    ] = None,
    monitor: Annotated[
        Monitor, cli.Option("--monitor", help="The validation measure that chooses the best epoch.")
    ] = Monitor.VAL_LOSS,
    smoothing: Annotated[float, cli.Option("--smoothing", min=0.0, max=0.99, help="Label smoothing.")] = 0.0,
    weights: Annotated[
        Path | None,
        cli.Option("--weights", metavar="FILE", help="The base's state_dict, should it be in no cache any more."),
    ] = None,
    beside: Annotated[
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
    device: cli.Device = "auto",
    seed: cli.Seed = 0,
    as_json: cli.Json = False,
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
    from cnnkit.train import config, head

    settings = config.HeadConfig(
        head=head,
        loss=loss,
        solver=solver,
        optimizer=optimizer,
        lr=lr,
        epochs=epochs,
        batch=batch,
        l1=l1,
        l2=l2,
        init=init,
        class_weights=class_weights,
        standardize=standardize,
        pca=pca,
        whiten=whiten,
        patience=patience,
        monitor=monitor,
        smoothing=smoothing,
        seed=seed,
    )
    if beside is not None:
        if ignored := next((word for word, value in {"-o": output, "--weights": weights}.items() if value), None):
            raise UsageError(f"--with writes no model; drop {ignored}")
        from cnnkit.audit import ablation
        from cnnkit.audit.side_information import Columns, parse_names

        with cli.progress("training") as progress:
            found = ablation.measure(
                train,
                val=val,
                hold_out=hold_out,
                columns=Columns(parse_names(beside), columns),
                settings=settings,
                device=device,
                progress=progress,
            )
        cli.emit(found, as_json)
        return
    if columns is not None:
        raise UsageError("--columns says where the columns of --with stand; say which with --with NAME,...")
    with cli.progress("training") as progress:
        result = head.train_head(
            train,
            cli.model_file(output),
            val=val,
            hold_out=hold_out,
            settings=settings,
            weights=weights,
            device=device,
            progress=progress,
        )
    cli.emit([result], as_json)


if __name__ == "__main__":
    main()
