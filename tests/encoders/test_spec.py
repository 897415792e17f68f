import pytest

from parfocal.encoders import load_tile_encoder, parse_encoder_specs
from parfocal.encoders.loading import parse_spec
from parfocal.errors import EncoderError


def test_a_path_keeps_its_commas_and_its_plus() -> None:
    spec = parse_spec("file:/data/a,b+grid/model.onnx,tile_px=256,norm=half")

    assert spec.target == "/data/a,b+grid/model.onnx"
    assert spec.options == {"tile_px": "256", "norm": "half"}


@pytest.mark.parametrize("text", ["virchow2,checkpoint=/w/a.pth+grid2", "virchow2+grid2,checkpoint=/w/a.pth"])
def test_grid_suffix_may_stand_at_the_name_or_at_the_end(text: str) -> None:
    spec = parse_spec(text)

    assert (spec.kind, spec.target, spec.grid2) == ("preset", "virchow2", True)
    assert spec.options == {"checkpoint": "/w/a.pth"}


def test_timm_names_may_hold_a_tag() -> None:
    spec = parse_spec("timm:resnet18.a1_in1k,pretrained")

    assert (spec.kind, spec.target, spec.options) == ("timm", "resnet18.a1_in1k", {"pretrained": ""})


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "names nothing"),
        ("timm:", "names nothing"),
        ("hub:abc", "not timm, file or python"),
        ("timm:resnet18,pretrain", "no option of it"),
        ("virchow2,checkpoint=", "no option of it"),
        ("filterbank,checkpoint=a", "no option of it"),
        ("filterbank,tile_px=big", "not a whole number"),
        ("filterbank+grid2", "needs a feature map"),
        ("virchow3", "Close: .*virchow2"),
    ],
)
def test_a_spec_that_cannot_be_read_says_why(text: str, part: str) -> None:
    with pytest.raises(EncoderError, match=part):
        load_tile_encoder(text)


def test_one_spec_serves_all_magnifications() -> None:
    assert parse_encoder_specs("filterbank", (2.0, 0.5)) == {2.0: "filterbank", 0.5: "filterbank"}


def test_each_magnification_may_have_its_own_spec_with_options() -> None:
    specs = parse_encoder_specs("0.5=virchow2,checkpoint=/w/v.pth,2=filterbank,tile_px=256", (2.0, 0.5))

    assert specs == {2.0: "filterbank,tile_px=256", 0.5: "virchow2,checkpoint=/w/v.pth"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("0.5=filterbank", "no encoder for 2"),
        ("0.5=filterbank,1=filterbank,2=filterbank", "1 is not one of the magnifications 2, 0.5"),
        ("0.5=filterbank,0.5=filterbank,2=filterbank", "twice"),
    ],
)
def test_magnifications_without_exactly_one_spec_are_refused(text: str, part: str) -> None:
    with pytest.raises(EncoderError, match=part):
        parse_encoder_specs(text, (2.0, 0.5))


def test_an_unknown_device_is_refused_even_where_it_is_not_used() -> None:
    with pytest.raises(EncoderError, match="none of cpu, cuda"):
        load_tile_encoder("filterbank", device="foo")
