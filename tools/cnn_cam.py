"""cnn-cam: class activation maps, which show where in an image a network finds evidence for a class.

photos/cat/1.jpg    ->  DIR/cat/1.jpg               the overlay, of the image's size and format
                        DIR/cat/1~dog.jpg           the overlay of one class, if maps of several are requested
photos/cat/2.gif        DIR/cat/2.gif.png           formats that are not written become PNG
                        DIR/cat/1.jpg.map.npy       with --raw: the map at the size of the layer
                        DIR/cat/1.jpg.pixels.npy    with --raw: the map at the size of the image
"""

import inspect
from collections.abc import Callable
from typing import Annotated

from cnnkit import cli
from cnnkit.explain.cam_methods import METHODS
from cnnkit.explain.config import CamOptions, InputOptions, RenderOptions


def with_methods(function: Callable[..., None]) -> Callable[..., None]:
    """List the methods below the examples of the help."""
    lines = [f"    {method:<12} {METHODS[method].help}" for method in METHODS]
    function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "  Values of --method:", *lines])
    return function


@cli.image_command
@with_methods
def main(
    model: Annotated[
        str,
        cli.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="A trained .pt, an .onnx from cnn-export --cam (needs no torch), or the name of a torchvision or timm network.",
        ),
    ],
    sources: cli.options.Sources = None,
    *,
    cam: CamOptions,
    render: RenderOptions,
    shown: InputOptions,
    split: cli.options.Split = None,
    folders: cli.options.Folders = None,
    null: cli.options.Null = False,
    device: cli.options.Device = "auto",
    batch: cli.options.Batch = 32,
    jobs: cli.options.Jobs = None,
    errors: cli.options.Errors = None,
    as_json: cli.options.Json = False,
) -> None:
    """Draw class activation maps: heat maps of where in an image a network finds evidence for a class.

    Reads images, class folders (photos/CLASS/image.jpg) or a manifest. Prints a row for each map: label is the predicted class,
    class and probability are those of the map, overlay is the file written. peak (x, y) and box (x,y,width,height) are pixels of
    the image. maximum is the largest value of the map; 0 means no evidence for the class. Maxima are comparable only within one method
    and layer.

    -o writes an overlay for each map, --sheet one contact sheet of all. The colours cover the part of the image that the network saw,
    each cell of the map at the centre of its receptive field. 0 has the first colour, the maximum of each map the last.

    --manifest writes each image with its box, in the column box (x,y,width,height) to which every command crops: cnn-extract crops.tsv
    extracts features of what the network found. Columns of a manifest that is the SOURCE are kept.

    Examples:
      cnn-cam -m model.pt photos/ -o maps/
      cnn-cam -m model.pt split.tsv --split val --class true --sheet sheet.png
      cnn-cam -m model.pt both.jpg -o maps/ --class cat --class dog --box 0.5
      cnn-cam -m model.pt photos/ --class true --box 0.2 --manifest crops.tsv > maps.tsv
      cnn-cam -m model.onnx photos/ -o maps/ --method cam --json \\
          | jq -r "select(.probability < 0.6).overlay"
      cnn-cam -m mobilenet_v2 elephants.jpg -o maps/ --fine --size 448
      cnn-cam -m any.onnx landscape.jpg -o maps/ --size 900x1200
      cnn-eval test.tsv --worst 20 \\
          | cnn-cam -m model.pt - --class top --class true --sheet mistakes.png
      cnn-cam -m model.pt photos/ --faithful --method layercam > faithful.tsv
    """
    render = render.checked()

    from cnnkit.data import tree
    from cnnkit.explain import cam_render, cam_run
    from cnnkit.infer import feature_input

    cam_render.check(render)
    cli.keep_freed_memory()
    images = cli.images(sources, split=split, null=null, folders=folders)
    if not (render.output is None and render.sheet is None and render.manifest is None):
        cli.finish_files()
    network = cam_run.open_model(model, cam, shown, device=device, batch=batch)
    if render.output is None and render.sheet is None and render.manifest is None and not render.faithful:
        cli.notice("no map is drawn; add -o DIR for overlays, or --sheet FILE.png")
    with (
        tree.writing_into(render.output, force=render.force),
        cli.callbacks("explaining", errors=errors, streaming=True) as callbacks,
    ):
        listed_in = feature_input.tables(sources or [])
        records = cam_run.explain(
            images, network, options=render, listed_in=listed_in, batch=batch, jobs=jobs, callbacks=callbacks
        )
        cli.emit(records, as_json, columns=cam_run.columns(render))


if __name__ == "__main__":
    main()
