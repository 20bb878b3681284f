"""What a figure says, for the tests of pictures."""

import importlib
import sys
import warnings

import matplotlib
from matplotlib.colors import to_hex
from matplotlib.text import Text


def texts(artist):
    return [text for text in artist.findobj(Text) if text.get_visible() and text.get_text().strip()]


def words(artist):
    return [text.get_text() for text in texts(artist)]


def colour(artist):
    return to_hex(artist.get_color()).upper()


def assert_readable(figure):
    """Nothing is cut off, no two texts overlap, and drawing raises no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph, a layout that does not fit
        figure.draw_without_rendering()
    used, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(used.x0, used.y0, width - used.x1, height - used.y1) > -0.001, words(figure)
    ticks = [
        label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels()
    ]
    seen = [(text, text.get_window_extent()) for text in texts(figure) if text not in ticks]
    boxes = [box for _, box in seen]
    crowded = [text for text, box in seen if box.padded(-1).count_overlaps(boxes) > 1]
    assert crowded == []


def assert_global_state_stays(monkeypatch, module, draw, *further_modules):
    """Neither importing the modules nor drawing with them needs pyplot or changes matplotlib's settings."""
    monkeypatch.delattr(matplotlib, "pyplot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it now fails
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        before = matplotlib.rcParams.copy()
        for imported in (module, *further_modules):
            importlib.reload(imported)
        draw()
        assert matplotlib.rcParams.copy() == before
