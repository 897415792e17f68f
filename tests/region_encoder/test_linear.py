"""The linear layer by convolution is the linear layer."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from parfocal.region_encoder.attention import linear


@pytest.mark.parametrize("rows", [1, 255, 256, 300, 257])
def test_rows_come_out_as_from_the_layer_itself(rows: int) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40), torch.randn(rows, 24)

    torch.testing.assert_close(linear(layer, x), functional.linear(x, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)


def test_gradients_come_out_as_from_the_layer_itself() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40), torch.randn(4, 75, 24, requires_grad=True)
    weights = torch.randn(4, 75, 40)

    ours = torch.autograd.grad((linear(layer, x) * weights).sum(), [x, layer.weight, layer.bias])
    theirs = torch.autograd.grad((layer(x) * weights).sum(), [x, layer.weight, layer.bias])

    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
