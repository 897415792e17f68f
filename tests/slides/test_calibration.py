import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.errors import CalibrationError, ConfigError, ParfocalWarning
from parfocal.slides.calibration import Calibration, MppClaim, calibrate, check_slide_mpp


def settle(
    claim: MppClaim | None, power: float | None = None, *, slide_mpp: float | None = None, ask_power: bool = False
) -> Calibration:
    return calibrate("scan7.tif", claim, power, slide_mpp=slide_mpp, mpp_from_objective=ask_power)


def test_a_plausible_claim_is_taken_with_its_source() -> None:
    assert settle(MppClaim(0.25, 0.26, "OME PhysicalSize")) == Calibration(0.255, "OME PhysicalSize")


def test_a_screen_resolution_is_refused_and_recognised() -> None:
    with pytest.raises(CalibrationError, match=r"scan7.tif claims 352.8 .* 72-dpi tag.* 0.08 to 20\. Pass --slide-mpp"):
        settle(MppClaim(25400 / 72, 25400 / 72, "TIFF resolution tag"))


@pytest.mark.parametrize("value", [0.0, -0.5, 0.0799, 20.1, float("nan"), float("inf")])
def test_values_no_slide_has_are_refused_from_the_file_and_from_the_caller(value: float) -> None:
    with pytest.raises(CalibrationError, match="--slide-mpp"):
        settle(MppClaim(value, value, "openslide.mpp-x"))
    with pytest.raises(CalibrationError, match=r"0\.08 to 20"):
        settle(None, slide_mpp=value)


@pytest.mark.parametrize("value", [0.0, -0.5, 352.8, float("nan"), float("inf")])
def test_what_a_caller_says_of_all_slides_is_refused_before_one_is_opened(value: float) -> None:
    with pytest.raises(ConfigError, match=r"--slide-mpp .* cannot be .*0\.08 to 20"):
        check_slide_mpp(value)
    check_slide_mpp(None)
    check_slide_mpp(0.08)


@given(st.floats(0.08, 2.6) | st.sampled_from([4.0, 8.0, 16.0, 20.0]), st.sampled_from(["cm", "inch"]))
def test_a_slide_scanner_s_value_is_believed_to_the_ends_of_the_range(mpp: float, unit: str) -> None:
    assert settle(MppClaim(mpp, mpp, "TIFF resolution tag", f"{10000 / mpp:g} pixels per {unit}")).mpp == mpp


@given(st.floats(1e-6, 0.0799) | st.floats(20.1, 1e9))
def test_a_value_that_no_slide_scanner_has_is_refused_with_what_the_file_says(mpp: float) -> None:
    said = f"{10000 / mpp:.8g} pixels per cm"

    with pytest.raises(CalibrationError) as caught:
        settle(MppClaim(mpp, mpp, "TIFF resolution tag", said))
    assert f"its TIFF resolution tag says {said}" in str(caught.value)
    assert "slides have 0.08 to 20" in str(caught.value)


@pytest.mark.parametrize("dpi", [1440, 2400, 3600, 4800, 9600])
@pytest.mark.parametrize("of_picture", [False, True])
def test_the_resolution_of_a_print_is_none_even_where_slides_have_such_values(dpi: int, of_picture: bool) -> None:
    with pytest.raises(CalibrationError, match=rf"{dpi} dots per inch: the resolution of a print"):
        settle(MppClaim(25400 / dpi, 25400 / dpi, "resolution tag", of_picture=of_picture))


def test_ten_micrometres_are_an_imagesetter_s_only_in_a_picture() -> None:
    assert settle(MppClaim(10.0, 10.0, "TIFF resolution tag")).mpp == 10.0
    with pytest.raises(CalibrationError, match="2540 dots per inch"):
        settle(MppClaim(10.0, 10.0, "PNG resolution", of_picture=True))


def test_an_objective_that_no_scanner_has_gives_no_resolution() -> None:
    with pytest.raises(CalibrationError, match="--slide-mpp"):
        settle(None, 400.0, ask_power=True)


def test_pixels_that_are_not_square_are_refused() -> None:
    with pytest.raises(CalibrationError, match=r"0\.5 microns per pixel along x and 0\.55 along y"):
        settle(MppClaim(0.5, 0.55, "TIFF resolution tag"))


def test_a_missing_claim_names_the_remedy_and_never_takes_the_objective_unasked() -> None:
    with pytest.raises(CalibrationError, match=r"power is 20x.*--slide-mpp \(slide_mpp=\.\.\.\)"):
        settle(None, 20.0)
    assert settle(None, 20.0, ask_power=True).mpp == 0.5
    with pytest.raises(CalibrationError):
        settle(None, None, ask_power=True)


def test_the_file_wins_over_the_objective_and_the_caller_over_both() -> None:
    claim = MppClaim(0.46, 0.46, "TIFF resolution tag")

    assert settle(claim, 20.0, ask_power=True).mpp == 0.46
    assert settle(claim, slide_mpp=0.47) == Calibration(0.47, "--slide-mpp")


def test_an_override_warns_only_where_it_contradicts_a_plausible_claim() -> None:
    with pytest.warns(ParfocalWarning, match=r"given 0.25 .* says 0.5"):
        assert settle(MppClaim(0.5, 0.5, "TIFF resolution tag"), slide_mpp=0.25).mpp == 0.25
    # Warnings are errors here, so that a silent return is the test.
    assert settle(MppClaim(352.8, 352.8, "TIFF resolution tag"), slide_mpp=0.25).mpp == 0.25


def test_every_refusal_is_one_line() -> None:
    for claim in (None, MppClaim(352.8, 352.8, "tag"), MppClaim(0.5, 1.0, "tag")):
        with pytest.raises(CalibrationError) as caught:
            settle(claim)
        assert "\n" not in str(caught.value)
