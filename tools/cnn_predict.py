"""Name what images show, with one exported network or several that vote."""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.choices import Crops, Fit, Interpolation, Vote
from cnnkit.errors import UsageError

# How a terminal's help groups the words; the others stand above.
_AVERAGING, _FOREIGN = "Several views of a picture", "Networks that cnnkit did not make"


@cli.command
def main(
    models: Annotated[
        list[Path],
        cli.Option("--model", "-m", metavar="MODEL.onnx", help="An exported network; several of them vote."),
    ],
    sources: cli.options.Sources = None,
    top: Annotated[int, cli.Option("--top", min=1, metavar="K", help="Print the K best classes of each picture.")] = 1,
    vote: Annotated[
        Vote,
        cli.Option(
            "--vote",
            help="How several models or views come to one answer: by the mean of their probabilities, or by the majority of their "
            "answers; the probability is then the share of votes, and the mean decides between equals.",
        ),
    ] = Vote.SOFT,
    min_probability: Annotated[
        float,
        cli.Option(
            "--min-probability", min=0.0, max=1.0, metavar="P", help="Print ? for a label that is less probable."
        ),
    ] = 0.0,
    logits: Annotated[bool, cli.Option("--logits", help="One more column: what comes before the softmax.")] = False,
    labels_only: Annotated[
        bool,
        cli.Option(
            "--labels-only",
            help="Nothing but the label, one line for each picture; the line of a picture that was skipped is empty.",
        ),
    ] = False,
    tta: Annotated[
        str | None,
        cli.Option(
            "--tta",
            metavar="NOTATION",
            help='Test-time averaging over augmented views: "hflip", "crop 0.9, hflip" or @FILE, as cnn-augment has it. '
            "Words other than hflip, vflip and crop load torch.",
            rich_help_panel=_AVERAGING,
        ),
    ] = None,
    views: Annotated[
        int | None,
        cli.Option(
            "--views",
            min=2,
            metavar="N",
            help="How many views --tta draws, the plain picture among them; flips alone are all taken. [default: 8]",
            show_default=False,
            rich_help_panel=_AVERAGING,
        ),
    ] = None,
    crops: Annotated[
        Crops | None,
        cli.Option(
            "--crops",
            help="The centre, which is the plain picture, and the corners of the resized picture; with 10 all of them mirrored, too.",
            rich_help_panel=_AVERAGING,
        ),
    ] = None,
    seed: Annotated[
        int,
        cli.Option(
            "--seed", min=0, help="Of what --tta draws: the same seed, the same bytes.", rich_help_panel=_AVERAGING
        ),
    ] = 0,
    size: Annotated[
        str | None,
        cli.Option(
            "--size",
            metavar="PIXELS|HxW|native",
            help="Show networks from cnn-export --dynamic-size larger pictures, a rectangle, or every picture as it is. "
            "For a network without cnnkit header: side of its input.",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        cli.Option(
            "--mean",
            metavar="R,G,B",
            help="For a network without cnnkit header: mean of its input, for values from 0 to 1.",
            rich_help_panel=_FOREIGN,
        ),
    ] = None,
    std: Annotated[
        str | None,
        cli.Option("--std", metavar="R,G,B", help="Likewise: standard deviation.", rich_help_panel=_FOREIGN),
    ] = None,
    labels: Annotated[
        Path | None,
        cli.Option(
            "--labels",
            metavar="FILE",
            help="Likewise: its classes, one a line, in the order of its outputs.",
            rich_help_panel=_FOREIGN,
        ),
    ] = None,
    resize: Annotated[
        int | None,
        cli.Option(
            "--resize",
            min=1,
            metavar="PIXELS",
            help="Likewise: shorter side before the crop. [default: 256 for 224 and so on]",
            rich_help_panel=_FOREIGN,
        ),
    ] = None,
    fit: Annotated[
        Fit | None,
        cli.Option("--fit", help="Likewise: how a picture becomes a square. [default: crop]", rich_help_panel=_FOREIGN),
    ] = None,
    interpolation: Annotated[
        Interpolation | None,
        cli.Option(
            "--interpolation", help="Likewise: how it is resized. [default: bilinear]", rich_help_panel=_FOREIGN
        ),
    ] = None,
    split: cli.options.Split = None,
    null: cli.options.Null = False,
    device: cli.options.Device = "auto",
    batch: cli.options.Batch = 32,
    jobs: cli.options.Jobs = None,
    errors: cli.options.Errors = None,
    as_json: cli.options.Json = False,
) -> None:
    """Name what pictures show, with one exported network or several that vote.

    Writes path, rank, label and probability, in the order of the pictures, as they are done. How pictures are prepared and what
    the classes are is read from the model. A SOURCE may also be a FILE.npy of features, for a head from cnn-export --head-only.

    With --tta or --crops the network is asked about several views of each picture, the plain one always among them, and
    --vote makes one answer of theirs.

    A network that cnnkit did not make takes float pictures (N, 3, H, W) or (N, H, W, 3); it needs --size, --mean, --std
    and --labels. Whether it gives probabilities or logits is seen.

    Examples:
      cnn-predict -m head.onnx cat.jpg
      cnn-predict -m head.onnx split.tsv --split test | cnn-eval --truth split.tsv
      find . -name "*.jpg" -print0 | cnn-predict -m head.onnx -0 - --json | jq -r 'select(.probability < 0.6).path'
      ls *.jpg | cnn-predict -m head.onnx - --labels-only | sort | uniq -c
      cnn-predict -m one.onnx -m two.onnx -m three.onnx --vote hard photos/
      cnn-predict -m head.onnx split.tsv --split test --tta "crop 0.9, hflip" --views 16
      cnn-predict -m any.onnx landscapes/ --size native
      cnn-predict -m head.onnx test.npy --top 3
      cnn-predict -m resnet.onnx --size 224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --labels classes.txt photos/
    """
    from cnnkit.infer import external_model, feature_input, predict
    from cnnkit.infer.config import ModelSpec, PredictConfig

    if labels_only and (top > 1 or logits or as_json):
        raise UsageError("--labels-only prints nothing but the label; drop --top, --logits and --json")
    found = None
    if feature_input.are_feature_files(sources):
        if jobs is not None or null:
            raise UsageError(
                f"features are not decoded, and no list of them is read; drop {'--jobs' if jobs is not None else '--null'}"
            )
        found = feature_input.find(sources or [], split=split)
    images = cli.images(sources, split=split, null=null) if found is None else []
    predictor = predict.Predictor(
        models,
        PredictConfig(vote=vote, logits=logits, tta=tta, views=views, crops=crops, seed=seed, device=device),
        spec=ModelSpec(
            size=size,
            mean=external_model.parse_channels(mean, option="--mean"),
            std=external_model.parse_channels(std, option="--std"),
            labels=labels,
            resize=resize,
            fit=fit,
            interpolation=interpolation,
        ),
    )
    with cli.skipping(errors) as skip, cli.progress("predicting", streaming=True) as progress:
        predictions = (
            predictor.images(images, batch=batch, jobs=jobs, skip=skip, progress=progress)
            if found is None
            else predictor.features(found, batch=batch, skip=skip, progress=progress)
        )
        if labels_only:
            cli.emit_lines(predict.labels(predictions, predictor.classes, min_probability=min_probability))
        else:
            cli.emit(
                predict.rows(predictions, predictor.classes, top=top, min_probability=min_probability),
                as_json,
                columns=("path", "rank", "label", "probability", *(("logit",) if logits else ())),
            )


if __name__ == "__main__":
    main()
