"""The exported file: the same numbers, for any number of regions and tokens, where parfocal cannot be imported."""

import sys
from pathlib import Path

import pytest
import torch

from parfocal.errors import ConfigError
from parfocal.region_encoder import RegionEncoder, export_model
from parfocal.region_encoder.export import DenseEncoder

from ..run import fresh
from .toy import batch_of, model_of

# In a process of its own, as the shape checks of the tests would turn traced sizes into constants. It imports what both
# need, and never parfocal: a child does, which exports.
SCRIPT = """
import os, sys
import pytest
import torch
import torch._dynamo
child = os.fork()
if not child:
    from parfocal.cli import main
    status = main(["export-model", sys.argv[1], "-o", sys.argv[2]])
    sys.stdout.flush()
    os._exit(status)
assert os.waitpid(child, 0)[1] == 0
assert "parfocal" not in sys.modules
sys.modules["parfocal"] = None  # importing it is an error from here on
program = torch.export.load(sys.argv[2]).module()
torch.save([program(*batch) for batch in torch.load(sys.argv[3])], sys.argv[4])
"""


def test_the_dense_form_is_the_same_function() -> None:
    # A second way to the same numbers: absent tokens are hidden by -inf instead of left out.
    for settings in ({}, {"trunk": "separate", "encoders": ("a", "b", "b"), "dims": (9, 24, 24)}):
        encoder = model_of(**settings).encoder
        batch = batch_of(5, absent=0.5)
        encoded = encoder.encode(*batch)
        with torch.no_grad():
            dense = DenseEncoder(encoder)(*batch)

        for ours, theirs in zip(
            (encoded.cls, encoded.registers, encoded.tokens, encoded.cls_weights), dense, strict=True
        ):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_file_that_the_command_exports_gives_the_same_numbers_without_parfocal(tmp_path: Path) -> None:
    model_of(depth=1).encoder.save_pretrained(tmp_path / "model")
    encoder = RegionEncoder.from_pretrained(tmp_path / "model")
    batches = [batch_of(2, absent=0.4), tuple(part[:, :4] for part in batch_of(7, absent=0.2))]
    torch.save(batches, tmp_path / "in.pt")

    files = (tmp_path / name for name in ("model", "encoder.pt2", "in.pt", "out.pt"))
    done = fresh.run([sys.executable, "-c", SCRIPT, *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert encoder.digest in done.stdout
    for batch, (cls, registers, tokens, cls_weights) in zip(batches, torch.load(tmp_path / "out.pt"), strict=True):
        expected = encoder.encode(*batch)
        torch.testing.assert_close(cls, expected.cls, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(registers, expected.registers, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tokens, expected.tokens, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(cls_weights, expected.cls_weights, atol=1e-5, rtol=1e-5)


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an exported program ends in"):
        export_model(tmp_path / "model", tmp_path / "encoder.onnx")
