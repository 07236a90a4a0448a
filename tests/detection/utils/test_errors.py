import pytest

from detection.utils.errors import optional


def test_an_error_of_a_drawing_is_a_warning(caplog):
    with optional("a.png"):
        raise OSError(28, "No space left on device")
    assert "a.png is not drawn: OSError: [Errno 28] No space left" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_users_interrupts_are_not(error):
    with pytest.raises(error), optional("a.png"):
        raise error
