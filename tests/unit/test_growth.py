"""Slopes, faults, page and plots of `extra-rl bench growth`; the measuring is left to the command."""

from xml.etree import ElementTree

import pytest

from benchmarks.growth import Curve, Part, page, plot


@pytest.mark.parametrize("power", [0, 0.5, 1, 2])
def test_the_slope_is_the_power_of_the_size(power: float) -> None:
    curve = Curve("cost", "ms", 1, [(size, 3 * size**power) for size in (1, 10, 100, 1000)])
    assert curve.slope == pytest.approx(power)
    assert curve.fault == (power > 1)


def test_page_and_plot_show_every_curve_and_name_faults() -> None:
    part = Part("prompts", "prompts in the memory", "64 prompts a call")
    for size in (1000, 10_000):
        part.add("a call & more", "ms", 0, size, 5.0)
        part.add("a scan", "ms", 1, size, size**2)
    written = page([part])
    assert "| a call & more, ms | 5 | 5 | 0.00 | 0 |" in written
    assert "2.00 **fault** | 1 |" in written
    texts = [element.text or "" for element in ElementTree.fromstring(plot(part)).iter()]
    assert "a call & more: 0.00 (0)" in texts
    assert "a scan: 2.00 (1)" in texts
