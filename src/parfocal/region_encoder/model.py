"""Encoder and decoder together: what pretraining trains, and one checkpoint for both."""

from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from parfocal.region_encoder.checkpoint import load_weights, read_config, resolve, weights_digest, write_checkpoint
from parfocal.region_encoder.config import RegionEncoderConfig
from parfocal.region_encoder.decoder import Decoded, EmbeddingDecoder
from parfocal.region_encoder.encoder import RegionEncoder
from parfocal.region_encoder.readout import EncodedRegions


class RegionModel(nn.Module):
    """A region encoder with the decoder that can be asked about any tile."""

    def __init__(self, config: RegionEncoderConfig) -> None:
        super().__init__()
        self.encoder = RegionEncoder(config)
        self.decoder = EmbeddingDecoder(config)

    @property
    def config(self) -> RegionEncoderConfig:
        """The settings of both."""
        return self.encoder.config

    def decode(
        self,
        encoded: EncodedRegions,
        present: Bool[Tensor, "region token"],
        xy_um: Float[Tensor, "region query 2"],
        mpp: Float[Tensor, "region query"],
        *,
        query_present: Bool[Tensor, "region query"] | None = None,
        bottleneck: bool = False,
    ) -> Decoded:
        """Ask an encoded region about tiles.

        Args:
            encoded: what the encoder made of the tokens.
            present: which tokens it was given.
            xy_um: centres of the asked tiles about the region's centre, in micrometres.
            mpp: their micrometres per pixel.
            query_present: which of the questions are asked; all when None.
            bottleneck: look at CLS and the registers only; what CLS must then carry makes it the region's vector.
        """
        memory = torch.cat([encoded.cls[:, None], encoded.registers], dim=1)
        memory_present = present.new_ones(memory.shape[:2])
        if not bottleneck:
            memory = torch.cat([memory, encoded.tokens], dim=1)
            memory_present = torch.cat([memory_present, present], dim=1)
        decoded: Decoded = self.decoder(memory, memory_present, xy_um, mpp, query_present)
        return decoded

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits over settings and weights."""
        return weights_digest(self.config, self.state_dict())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and config.json; config.json comes last."""
        write_checkpoint(Path(folder), self.config, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, *, device: str | torch.device = "cpu") -> "RegionModel":
        """A trained model from a folder or from the Hugging Face hub, in evaluation mode.

        Raises:
            StoreError: there is no checkpoint, it is damaged, or it holds an encoder alone.
            FormatVersionError: a newer parfocal wrote it.
        """
        folder = resolve(folder_or_hub_id)
        model = cls(read_config(folder))
        load_weights(model, folder, prefix="")
        return model.to(device).eval()
