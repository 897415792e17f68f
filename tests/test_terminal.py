"""Nothing that stands in a name or a message steers the terminal."""

from hypothesis import given
from hypothesis import strategies as st

from parfocal.terminal import printable


@given(st.text(st.characters() | st.sampled_from("\x1b\x9b\r\n\x7f\x07\u202e\udcff")))
def test_no_control_character_is_left(text: str) -> None:
    shown = printable(text)

    assert shown.isprintable() or all(not c.isprintable() and ord(c) > 0x9F for c in shown if not c.isprintable())
    shown.encode()


def test_control_characters_are_shown_and_words_stay() -> None:
    assert printable("a\x1b[31mred\nb") == "a\\x1b[31mred\\x0ab"
    assert printable("one\ntwo\r", keep="\n") == "one\ntwo\\x0d"
    assert printable("Größe 腫瘍.svs \udcff") == "Größe 腫瘍.svs \\xff"
