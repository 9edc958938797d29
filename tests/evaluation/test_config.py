"""Settings of evaluation and calibration refuse what contradicts itself before predictions are read."""

from pathlib import Path

import pytest

from cnnkit.errors import CnnkitError, UsageError
from cnnkit.evaluation.config import CalibrateConfig, EvalConfig


@pytest.mark.parametrize(
    ("config", "files", "said"),
    [
        (EvalConfig(worst=3, folds=True), 1, "--worst and --folds exclude each other"),
        (EvalConfig(), 2, "2 files of predictions"),
        (EvalConfig(folds=True, confusion=Path("a.png")), 1, "--confusion draws one set"),
        (EvalConfig(fail_under=["ece=0.1"]), 1, "use --fail-over ece=0.1"),
        (EvalConfig(fail_over=["accuracy=0.9"]), 1, "use --fail-under accuracy=0.9"),
    ],
)
def test_rejects_contradictory_options(config, files, said):
    """Of bounds and of what is printed or drawn."""
    with pytest.raises(UsageError, match=said):
        config.checked(files=files)


def test_rejects_model_without_output_and_other_files(tmp_path):
    """Both or neither, an exported one, and a folder that exists."""
    model, output = tmp_path / "a.onnx", tmp_path / "b.onnx"
    assert CalibrateConfig(model=model, output=output).checked().output == output
    with pytest.raises(UsageError, match="-m without -o"):
        CalibrateConfig(model=model).checked()
    with pytest.raises(UsageError, match="run cnn-export"):
        CalibrateConfig(model=tmp_path / "a.pt", output=output).checked()
    with pytest.raises(CnnkitError, match="no such folder"):
        CalibrateConfig(model=model, output=tmp_path / "none" / "b.onnx").checked()
