"""Predict the classes of images, with one exported network or several."""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.errors import UsageError
from cnnkit.infer.config import ModelSpec, PredictConfig
from cnnkit.option_fields import given, refuse_unused

#: The settings of a prediction that --bench uses.
_BENCH_OPTIONS = ("--device", "--precision", "--batch", "--jobs", "--workers", "--tta", "--views", "--crops", "--seed")


@cli.image_command
def main(
    models: Annotated[
        list[Path],
        cli.Option(
            "--model",
            "-m",
            metavar="MODEL.onnx|NETWORK",
            help="Exported network, or the name of a torchvision or timm network; may be repeated, see --vote.",
        ),
    ],
    sources: cli.options.Sources = None,
    *,
    config: PredictConfig,
    spec: ModelSpec,
    bench: Annotated[
        bool,
        cli.Option(
            "--bench",
            help="Predict nothing; print the speed of decoding, of the networks and of both together, and its share of the possible speed.",
        ),
    ] = False,
    split: cli.options.Split = None,
    folders: cli.options.Folders = None,
    null: cli.options.Null = False,
    errors: cli.options.Errors = None,
    output_file: cli.options.TableFile = None,
    as_json: cli.options.Json = False,
) -> None:
    """Predict the classes of images, with one exported network or several.

    Prints path, rank, label and probability, in the order of the images. Preprocessing and classes are read from the model. The
    names of class folders (photos/CLASS/image.jpg) are not used. A SOURCE may also be a FILE.npy of features, for a head from
    cnn-export --head-only.

    A network by name, such as mobilenet_v2 or timm:convnext_atto, predicts the classes that it was published with, ImageNet's for most. It
    is exported once, as by cnn-export, and cached: later calls need no torch.

    A model of cnn-train --predict-box adds the column box: x,y,width,height in pixels of the upright image.

    With --tta or --crops, several views of each image are predicted, always including the unchanged one, and combined by --vote.

    With --shard I/N, each of N machines predicts a share of the images. The tables of all shards, in order and with one header row, are
    that of one run.

    A model of images with several labels adds the column threshold, and prints one row per label: the classes whose probability is not
    below their threshold. An image without a label has one row of rank 0.

    A model of cnn-train-head --use also takes columns: of a manifest that is the SOURCE, of --columns FILE.tsv, or width, height, aspect
    and bytes of the image files.

    A model of cnn-calibrate --novelty adds the column novelty, how far the image is from those of the training set. With --reject, the
    labels of images above its threshold are ?, as with --min-probability.

    With --sets, each image has a row for each class in its prediction set, which has the true class as often as
    cnn-calibrate --sets promised.

    With --by-margin, the images about which the model is least sure come first: label these next.

    A network without a cnnkit header must take images (N, C, H, W) or (N, H, W, C) with three channels or one, and needs
    --size, --mean, --std and --labels. Whether its output is probabilities or logits is read from its graph.

    Examples:
      cnn-predict -m head.onnx cat.jpg
      cnn-predict -m mobilenet_v2 --top 5 photo.jpg
      cnn-predict -m resnet18 --weights resnet18.pth photos/
      cnn-predict -m head.onnx split.tsv --split test | cnn-eval --truth split.tsv
      cnn-predict -m head.onnx split.tsv --split test -o predictions.tsv
      find . -name "*.jpg" -print0 | cnn-predict -m head.onnx -0 - --json \\
          | jq -r 'select(.probability < 0.6).path'
      ls *.jpg | cnn-predict -m head.onnx - --labels-only | sort | uniq -c
      cnn-predict -m one.onnx -m two.onnx -m three.onnx --vote hard photos/
      cnn-predict -m head.onnx split.tsv --split test --tta "crop 0.9, hflip" --views 16
      cnn-predict -m any.onnx landscapes/ --size native
      cnn-predict -m sets.onnx photos/ --sets
      cnn-predict -m novelty.onnx photos/ --reject
      cnn-predict -m head.onnx unlabelled/ --by-margin | head -n 51
      cnn-predict -m head-only.onnx test.npy --top 3
      cnn-predict -m two.onnx photos/ --columns photos.tsv
      cnn-predict -m head.onnx photos/ --shard 2/8 -o predictions-2.tsv
      cnn-predict -m resnet.onnx --size 224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 \\
          --labels classes.txt photos/
      cnn-predict -m vgg.onnx --size 224 --channels bgr --range 255 \\
          --mean 103.939,116.779,123.68 --std 1 --labels classes.txt photos/
    """
    inputs = [*models, *(sources or []), config.columns]
    as_json = cli.to_file(
        output_file,
        as_json,
        inputs=inputs,
        outputs={"--errors": errors},
        lines="--labels-only" if config.labels_only else None,
    )
    if bench:
        named = [name for name in given(config) if name not in _BENCH_OPTIONS]
        refuse_unused({"--errors": errors} | dict.fromkeys(named, True), "--bench predicts nothing")
    config = config.checked(models=len(models), as_json=as_json)
    spec = spec.checked()

    from cnnkit.infer import feature_input, predict

    found = None
    if feature_input.are_feature_files(sources):
        unused = {
            "--jobs": config.jobs is not None,
            "--workers": config.workers > 0,
            "--null": null,
            "--folders": folders is not None,
            "--shard": config.shard,
            "--bench": bench,
        }
        if word := next((word for word, used in unused.items() if used), None):
            raise UsageError(f"{word} is for images, not for .npy files of features; drop it")
        found = feature_input.find(sources or [], split=split)
    images = cli.images(sources, split=split, null=null, folders=folders, labels=False) if found is None else []
    make_copies = None
    if config.needs_torch_views:
        from cnnkit.infer import torch_views

        make_copies = torch_views.TorchCopies()
    predictor = predict.Predictor(models, config, spec=spec, make_copies=make_copies)
    if bench:
        cli.emit([predictor.bench(list(images))], as_json)
        return
    with cli.callbacks("predicting", errors=errors, streaming=True, alone=config.shard is not None) as callbacks:
        outputs = (
            predictor.images(images, listed_in=feature_input.tables(sources or []), callbacks=callbacks)
            if found is None
            else predictor.features(found, callbacks=callbacks)
        )
        callbacks.phase(
            "predicting"
        )  # the options are valid: the notice about the device is printed before the first batch
        if config.by_margin:
            from cnnkit.infer import margins

            outputs = margins.in_order(outputs, predictor.thresholds)
        several = predictor.thresholds is not None
        most = config.most_labels(len(predictor.classes)) if several else config.most or len(predictor.classes)
        if config.labels_only:
            cli.emit_lines(
                predict.labels(
                    outputs,
                    predictor.classes,
                    min_probability=config.min_probability,
                    most_novelty=predictor.most_novelty,
                    need_one=config.shard is None,
                    thresholds=predictor.thresholds,
                    top=most,
                )
            )
        else:
            cli.emit(
                predict.rows(
                    outputs,
                    predictor.classes,
                    top=most,
                    min_probability=config.min_probability,
                    most_novelty=predictor.most_novelty,
                    sets=predictor.sets if config.sets else None,
                    need_one=config.shard is None,
                    thresholds=predictor.thresholds,
                ),
                as_json,
                columns=(
                    *("path", "rank", "label", "probability"),
                    *(("threshold",) if several else ()),
                    *(("logit",) if config.logits else ()),
                    *(("box",) if predictor.gives_box else ()),
                    *(("set_size",) if config.sets else ()),
                    *(("novelty",) if predictor.gives_novelty else ()),
                ),
            )


if __name__ == "__main__":
    main()
