"""Device errors of any library end a command with one line; bugs keep their traceback."""

import pytest

from cnnkit.data import preprocessing
from cnnkit.engine import session


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors"),
            "the memory is full (CUDA error: out of memory); give a smaller",
        ),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
            "the memory is full (cuDNN error: CUDNN_STATUS_ALLOC_FAILED); give",
        ),
        (MemoryError(), "the memory is full (MemoryError); give a smaller --batch or --size or --jobs"),
        (
            RuntimeError("CUDA error: device-side assert triggered"),
            "the GPU failed: CUDA error: device-side assert triggered; use",
        ),
        (
            RuntimeError("CUDA error: no kernel image is available"),
            "cuda:0 is too old, or too new, for the installed libraries",
        ),
    ],
)
def test_device_error_is_one_line(run, images, tmp_path, monkeypatch, error, line):
    """Wherever it is raised: exit status 1, one sentence, and only options that the command has."""

    def failing(*_, **__):
        raise error

    monkeypatch.setattr(session.Session, "__init__", failing)
    words = ["--layers", "conv 2 k3", "--weights", "none", "--size", "16"]
    done = run("cnn-extract", images(red=2), "-o", tmp_path / "x.npy", *words, "--device", "cpu", status=1)
    assert done.err.splitlines()[-1].startswith(f"cnn-extract: {line}")
    assert "Traceback" not in done.err
    assert done.out == ""


def test_bug_keeps_its_traceback(run, images, tmp_path, monkeypatch):
    """Other errors are not reported as device errors."""

    def failing(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(preprocessing, "with_size", failing)
    with pytest.raises(RuntimeError, match="a bug"):
        run(
            "cnn-extract",
            images(red=2),
            "-o",
            tmp_path / "x.npy",
            "--layers",
            "conv 2 k3",
            "--weights",
            "none",
            "--size",
            "16",
        )


@pytest.mark.parametrize("name", ["cnn-extract", "cnn-predict"])
@pytest.mark.parametrize(("words", "reason"), [([], "no GPU here"), (["--device", "cpu"], "--device cpu")])
def test_rejects_gpu_precisions_on_a_cpu(run, images, tmp_path, name, words, reason):
    """Before a network is loaded or an image is read."""
    others = ["-o", tmp_path / "x.npy"] if name == "cnn-extract" else ["-m", tmp_path / "m.onnx"]
    for precision in ("tf32", "float16"):
        done = run(name, images(red=1), *others, "--precision", precision, *words, status=2)
        assert (
            done.err == f"{name}: --precision {precision} needs a GPU; a CPU computes in float32 ({reason}); drop it\n"
        )
