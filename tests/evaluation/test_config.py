"""Contradictory settings of evaluation and calibration are refused before predictions are read."""

from pathlib import Path

import pytest

from cnnkit.errors import CnnkitError, UsageError
from cnnkit.evaluation.config import CalibrateConfig, EvalConfig


@pytest.mark.parametrize(
    ("config", "files", "message"),
    [
        (EvalConfig(worst=3, folds=True), 1, "--worst and --folds exclude each other"),
        (EvalConfig(), 2, "2 files of predictions"),
        (EvalConfig(folds=True, confusion=Path("a.png")), 1, "--confusion draws one set"),
        (EvalConfig(fail_under=["ece=0.1"]), 1, "use --fail-over ece=0.1"),
        (EvalConfig(fail_over=["accuracy=0.9"]), 1, "use --fail-under accuracy=0.9"),
    ],
)
def test_rejects_contradictory_options(config, files, message):
    """Bounds, and modes of output."""
    with pytest.raises(UsageError, match=message):
        config.checked(files=files)


def test_rejects_model_without_output_and_other_files(tmp_path):
    """-m and -o go together; the model is exported, and the folder of the output exists."""
    model, output = tmp_path / "a.onnx", tmp_path / "b.onnx"
    assert CalibrateConfig(model=model, output=output).checked().output == output
    with pytest.raises(UsageError, match="-m without -o"):
        CalibrateConfig(model=model).checked()
    with pytest.raises(UsageError, match="run cnn-export"):
        CalibrateConfig(model=tmp_path / "a.pt", output=output).checked()
    with pytest.raises(CnnkitError, match="no such folder"):
        CalibrateConfig(model=model, output=tmp_path / "none" / "b.onnx").checked()
