"""cnn-augment: augmented copies of images.

photos/cat/1.jpg            ->  DIR/cat/1~01.jpg, DIR/cat/1~02.jpg, ...
photos/cat/indoors/2.gif        DIR/cat/indoors/2.gif~01.png, ...         formats that are not written become PNG
photos/dog/1.png                DIR/dog/1~01.png, ...
                                DIR/augment.tsv                           path label split group source copy, and the parameters

With --per-tar N they are in DIR/images-000000.tar, DIR/images-000001.tar, ..., or DIR/train-000000.tar if they have a split.
"""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.callbacks import ignore_skip
from cnnkit.data.config import AugmentConfig
from cnnkit.errors import UsageError


@cli.image_command
def main(
    sources: cli.options.Sources = None,
    output: Annotated[
        Path | None,
        cli.Option(
            "--output",
            "-o",
            metavar="DIR|-",
            help="Folder for the copies. With - no copies are written, and their parameters are printed. [required unless --sheet]",
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        cli.Option(
            "--sheet", metavar="FILE.png", help="Contact sheet: a row for each of up to 12 images, the original first."
        ),
    ] = None,
    *,
    config: AugmentConfig,
    split: cli.options.Split = None,
    folders: cli.options.Folders = None,
    null: cli.options.Null = False,
    errors: cli.options.Errors = None,
    as_json: cli.options.Json = False,
) -> None:
    """Write augmented copies of images, N copies of each.

    Reads a folder (photos/CLASS/image.jpg), a manifest or a list of paths. Writes DIR/CLASS/image~01.jpg, ... and DIR/augment.tsv: path,
    label, split, group, source, copy, and the parameters of each copy. Prints a summary.

    The same image and seed give the same copies, regardless of file names and other images. Adding a word to --augment does not change
    the parameters of the other words. All geometric transformations are combined and the image is resampled once.

    Images of validation and test splits are refused, whether a manifest or a folder name gives the split. The copies of an image form
    a group, which cnn-split keeps together.

    With --per-tar N the copies are in tar archives of N, in random order, each with its label and parameters; every command reads them.

    With --shard I/N, each of N machines makes the copies of a share of the images, in a folder of its own; a training takes the
    augment.tsv of all of them. Archives of different shards have different names.

    A copy has the size, format and colour profile of its image; grey images stay grey. The EXIF orientation is applied. EXIF,
    transparency and all frames except the first are dropped.

    Examples:
      cnn-augment photos/ -o more/ --copies 5 \\
          --augment "rotate 40, shift 0.2, shear 0.2, zoom 0.2, hflip, fill nearest"
      cnn-augment split.tsv --split train -o more/ --augment @augment.txt --keep --size 150
      cnn-augment photos/ -o more/ --per-tar 10000 --augment "rotate 40, hflip"
      cnn-augment photos/ --sheet look.png --augment "crop 0.6, brightness 0.3, hue 0.05"
      cnn-augment photos/cat/1.jpg -o - --json --augment "rotate 40"

      Words of --augment, in any order. Each copy draws uniformly from the range.
        rotate D        -D to D degrees
        shift S         -S to S of the width, and of the height
        shear S         -S to S pixels per row of distance from the centre;
                        0.2 is 11 degrees
        zoom Z          1-Z to 1+Z of the width and of the height is visible;
                        values below 1 enlarge
        hflip, vflip    mirrored left to right, top to bottom; half of the copies
        crop S          random window, S to 1 of each side, resized to the image
        brightness B    factor 1-B to 1+B; also contrast C, saturation S
        hue H           -H to H, where 1 is the whole colour circle
        blur P          Gaussian blur, standard deviation 0 to P pixels
        noise N         Gaussian noise, standard deviation N, where white is 1
        randaugment N M N of 14 operations, at level M of 30 (RandAugment);
                        usual: randaugment 2 9
        trivialaugment  one of the 14 operations, at a level of 0 to 30
                        (TrivialAugment)
        erase P         with probability P, a black rectangle of 2 to 33 % of the
                        area (random erasing)
        fill MODE       pixels outside the image: nearest aaaa|abcd|dddd (default),
                        constant 0000|abcd|0000, reflect dcba|abcd|dcba,
                        wrap abcd|abcd|abcd; the two policies fill with black
    """
    config = config.checked()
    if output is None and sheet is None:
        raise UsageError(
            "no output given; add -o DIR to write copies, -o - to print their parameters, or --sheet FILE.png"
        )
    listing = str(output) == "-"
    if config.per_tar is not None and (output is None or listing):
        raise UsageError("--per-tar needs an output folder; add -o DIR")
    images = cli.images(sources, split=split, null=null, folders=folders)

    with cli.callbacks("augmenting", errors=errors, streaming=listing, alone=config.shard is not None) as callbacks:
        if sheet is not None:
            from cnnkit.engine import augment_files

            if output is not None and not listing:
                augment_files.check(images, output, force=config.force)
            # With another output, skipped images are reported there, once
            skip = callbacks.skip if output is None else ignore_skip
            images = augment_files.sheet(images, sheet, config, skip=skip)
        if listing:
            from cnnkit.data import augment_plan
            from cnnkit.data.source import with_label_lists

            images, several = with_label_lists(images)
            records = augment_plan.listed(images, config, callbacks=callbacks)
            cli.emit(records, as_json, columns=augment_plan.columns(config.augmentation(), several_labels=several))
        elif output is not None:
            from cnnkit.engine import augment_files

            cli.emit([augment_files.write(images, output, config, callbacks=callbacks)], as_json)


if __name__ == "__main__":
    main()
