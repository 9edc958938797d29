"""cnn-augment: changed copies of images, exactly so many of each.

photos/cat/1.jpg            ->  DIR/cat/1~01.jpg, DIR/cat/1~02.jpg, ...
photos/cat/indoors/2.gif        DIR/cat/indoors/2.gif~01.png, ...         what is not written in its own format becomes PNG
photos/dog/1.png                DIR/dog/1~01.png, ...
                                DIR/augment.tsv                           path label split group source copy, and what made each
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
            help="Where the copies go. - writes none, and prints what would make them.",
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        cli.Option(
            "--sheet", metavar="FILE.png", help="Draw some of the pictures with their copies, the originals first."
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
    """Write changed copies of pictures, exactly so many of each.

    The same picture and the same seed give the same copies, whatever the files are called and whatever others there are. A word that is
    added to the notation changes none of the numbers that the others draw. All geometry is one interpolation.

    Pictures of a part that measures (val, test) are refused, whether a manifest or a folder's name says so. Copies of one picture are one
    group, which cnn-split keeps together.

    A copy has the size, the format and the colour profile of its picture, and is grey where that is; a second frame, transparency and EXIF
    are dropped, after the picture was turned upright.

    Examples:
      cnn-augment photos/ -o more/ --copies 5 \\
          --augment "rotate 40, shift 0.2, shear 0.2, zoom 0.2, hflip, fill nearest"
      cnn-augment split.tsv --split train -o more/ --augment @augment.txt --keep --size 150
      cnn-augment photos/ --sheet look.png --augment "crop 0.6, brightness 0.3, hue 0.05"
      cnn-augment photos/cat/1.jpg -o - --json --augment "rotate 40"

      The words of --augment, in any order; copies draw their numbers evenly from
        rotate D        -D to D degrees
        shift S         -S to S of the width, and of the height
        shear S         -S to S pixels for each pixel off the centre row; 0.2: 11 degrees
        zoom Z          1-Z to 1+Z of each side are seen; below 1 things get larger
        hflip, vflip    mirrored left to right, upside down: one half of the copies
        crop S          a window, S to 1 of each side, as large as the picture again
        brightness B    a factor of 1-B to 1+B; so do contrast C and saturation S
        hue H           -H to H of the colour circle, which is 1
        blur P          a Gaussian of 0 to P pixels' deviation
        noise N         Gaussian noise of deviation N, where white is 1
        fill MODE       what lies outside: nearest aaaa|abcd|dddd unless said,
                        constant 0000|abcd|0000, reflect dcba|abcd|dcba,
                        wrap abcd|abcd|abcd
    """
    config = config.checked()
    if output is None and sheet is None:
        raise UsageError(
            "say where the copies go with -o DIR; -o - prints what would make them, --sheet FILE.png shows some"
        )
    listing = str(output) == "-"
    images = cli.images(sources, split=split, null=null, folders=folders)

    with cli.callbacks("augmenting", errors=errors, streaming=listing) as callbacks:
        if sheet is not None:
            from cnnkit.engine import augment_files

            if output is not None and not listing:
                augment_files.check(images, output, force=config.force)
            # Unless this is all that is done, what cannot be used is named later, once
            skip = callbacks.skip if output is None else ignore_skip
            images = augment_files.sheet(images, sheet, config, skip=skip)
        if listing:
            from cnnkit.data import augment_plan

            records = augment_plan.listed(images, config, callbacks=callbacks)
            cli.emit(records, as_json, columns=augment_plan.columns(config.augmentation()))
        elif output is not None:
            from cnnkit.engine import augment_files

            cli.emit([augment_files.write(images, output, config, callbacks=callbacks)], as_json)


if __name__ == "__main__":
    main()
