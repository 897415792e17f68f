"""What everything that can be added must do, as tests: subclass a contract and say how to make the thing.

    from parfocal.testing import TileEncoderContract

    class TestGabor(TileEncoderContract):
        def make(self):
            return Gabor()

pytest finds the tests in the class. parfocal's own pass the same.
"""

from parfocal.testing.encoders import TileEncoderContract
from parfocal.testing.formats import FeatureFormatContract
from parfocal.testing.heads import HeadContract
from parfocal.testing.objectives import ObjectiveContract

__all__ = ["FeatureFormatContract", "HeadContract", "ObjectiveContract", "TileEncoderContract"]
