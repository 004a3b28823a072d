"""Signals that end what stays up."""

import signal

import pytest

from infl.cli.signals import NUMBERS, asked_to_end


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_asks_the_second_interrupts_and_the_third_does_nothing(number: signal.Signals) -> None:
    asked, away, before = [], [], signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), asked_to_end(lambda: asked.append(number)):
        try:
            signal.raise_signal(number)
            assert asked == [number]
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(number)  # what was started is put away all the same
            away.append(True)
    assert asked == [number] and away
    assert signal.getsignal(number) is before
