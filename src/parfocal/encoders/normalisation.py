"""How pixels are scaled before a network, by name or by number."""

from parfocal.encoders.spec import EncoderSpec
from parfocal.errors import EncoderError

__all__ = ["NORMALISATIONS", "read_normalisation"]

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

# Mean and standard deviation of each channel, of pixels from 0 to 1.
NORMALISATIONS: dict[str, Normalisation] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "bytes": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}


def read_normalisation(spec: EncoderSpec) -> Normalisation | None:
    """The spec's `norm=`: a name, or six numbers `r/g/b/r/g/b` (means, then standard deviations); None if not given.

    Raises:
        EncoderError: it is neither.
    """
    text = spec.options.get("norm")
    if text is None:
        return None
    if text in NORMALISATIONS:
        return NORMALISATIONS[text]
    try:
        numbers = [float(part) for part in text.split("/")]
    except ValueError:
        numbers = []
    if len(numbers) != 6 or any(not std > 0 for std in numbers[3:]):
        names = ", ".join(NORMALISATIONS)
        raise EncoderError(
            f"cannot load {spec.text}: norm={text} is not one of {names}, nor three means and three standard "
            f"deviations of pixels from 0 to 1, such as norm=0.7/0.5/0.7/0.2/0.2/0.2."
        )
    return tuple(numbers[:3]), tuple(numbers[3:])
