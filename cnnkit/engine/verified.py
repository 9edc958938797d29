"""From a model file to an ONNX file that has been seen to compute the same: the file appears only when the check has passed."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cnnkit.choices import ExportInput
from cnnkit.data.reader import Progress, no_progress
from cnnkit.data.source import Picture
from cnnkit.engine import device as devices
from cnnkit.engine.runner import Skip, raise_bad
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats.header import Kind, made_by

if TYPE_CHECKING:
    from cnnkit.engine.export import Parity

#: The largest difference of a probability that passes, unless the user says otherwise.
TOLERANCE = 1e-4
#: The same for float16, whose steps near 1 are 1e-3: through the fifty layers of MobileNetV2 they grow to 3e-2.
HALF_TOLERANCE = 5e-2
#: The lowest and the highest operator set that the exporter writes.
OPSETS = (18, 23)


def export_model(
    model: str | Path,
    output: str | Path,
    *,
    verify: Iterable[Picture] | None = None,
    verify_name: str = "pictures",
    input_kind: ExportInput = ExportInput.UINT8,
    features: bool = False,
    cam: bool = False,
    head_only: bool = False,
    half: bool = False,
    dynamic: bool = False,
    opset: int | None = None,
    tolerance: float | None = None,
    batch: int = 32,
    jobs: int | None = None,
    device: str = "auto",
    skip: Skip = raise_bad,
    progress: Progress = no_progress,
) -> "list[Parity]":
    """Export a model, compare ONNX Runtime with torch, and write the file if they agree.

    Args:
        model: A `.pt`.
        output: The `.onnx`.
        verify: Real pictures to compare on, beside random ones.
        verify_name: What they are called in the record.
        input_kind: uint8 pictures (N, H, W, 3), or normalised float32 (N, 3, H, W), grey ones (N, 1, H, W).
        features: Also give what the head reads.
        cam: Also give the class activation maps.
        head_only: Take features in place of pictures.
        half: float16 inside, float32 outside.
        dynamic: Take pictures of any size.
        opset: ONNX operator set.
        tolerance: The largest difference of a probability that passes.
        batch: The largest batch compared.
        jobs: Threads that decode.
        device: Where ONNX Runtime runs for the comparison.
        skip: Called for every picture that cannot be used.
        progress: Called after every batch of pictures.

    Returns:
        One record for each comparison: random inputs at batch 1, 2 and `batch`, and, where any size goes, of three other sizes; then
        the pictures.

    Raises:
        CnnkitError: The difference is above the tolerance, the graph is not valid, or the network does not take any size; nothing is
            written.
        UsageError: The options contradict each other.
    """
    output = Path(output)
    if head_only and (features or cam or half or dynamic or verify is not None or input_kind is not ExportInput.UINT8):
        raise UsageError(
            "--head-only takes features: --features, --cam, --fp16, --dynamic-size, --input and --verify go with a whole network"
        )
    if opset is not None and not OPSETS[0] <= opset <= OPSETS[1]:
        raise UsageError(f"--opset {opset}: give {OPSETS[0]} to {OPSETS[1]}")
    devices.parse(device)
    _check_files(Path(model), output)

    from cnnkit.engine import export, forms  # torch is loaded when the small mistakes are ruled out
    from cnnkit.engine.session import Session
    from cnnkit.formats import bundle, onnx_model
    from cnnkit.nets import classifier

    loaded = bundle.load(model)
    network = classifier.from_header(loaded.header, loaded.state, name=str(model))
    made = (
        forms.HeadExport(network)
        if head_only
        else forms.WholeExport(network, input_kind, features=features, cam=cam, half=half, dynamic=dynamic)
    )
    if dynamic:
        forms.check_any_size(network, loaded.header, name=str(model))
    header = loaded.header.but(kind=Kind.ONNX, made_by=loaded.header.made_by | made_by("torch", "onnx", "onnxscript"))
    proto = export.to_onnx(
        made.module,
        made.example(2, made.traced),
        inputs=made.input_name,
        outputs=made.module.names,
        opset=opset,
        free=made.free,
    )
    content = export.finished(proto, header)
    session = Session(content, device=device, name=f"the exported {Path(model).name}")

    drawn = [("random", made.example(size)) for size in sorted({1, 2, batch})]
    drawn += [(f"random {sides[0]}x{sides[1]}", made.example(2, sides)) for sides in made.others]
    records = [
        export.compare(made.reference, session, iter([inputs.numpy()]), source=source, classes=True)
        for source, inputs in drawn
    ]
    if verify is not None:
        pixels = forms.batches(
            verify, network, batch=batch, jobs=jobs, normalised=made.normalised, skip=skip, progress=progress
        )
        record = export.compare(made.reference, session, pixels, source=verify_name, classes=True)
        if not record.rows:
            raise CnnkitError(f"{verify_name}: no picture could be used to compare on; nothing written")
        records.append(record)
    bound = tolerance if tolerance is not None else HALF_TOLERANCE if half else TOLERANCE
    worst = max(records, key=lambda record: record.max_difference)
    if not worst.max_difference <= bound:
        raise CnnkitError(
            f"ONNX Runtime and torch differ by {worst.max_difference:.3g} on {worst.source} at batch {worst.batch}, "
            f"more than --tolerance {bound:g}; nothing written"
        )
    onnx_model.save(output, content)
    return records


def _check_files(model: Path, output: Path) -> None:
    if output.suffix != ".onnx":
        raise UsageError(f"{output}: a network is written to a .onnx file")
    if model.suffix == ".onnx":
        raise FormatError(f"{model}: is exported already; give the .pt that it was made from")
    if not model.exists():
        raise CnnkitError(f"{model}: no such file; a model comes from cnn-train-head")
    if not output.parent.is_dir():
        raise CnnkitError(f"{output.parent}: no such folder to write {output.name} into")
