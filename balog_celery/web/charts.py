"""Charts as SVG, drawn by the server. Colours come from the style sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from markupsafe import Markup

_WIDTH, _HEIGHT, _PAD = 120, 28, 2
_BARS, _BAR_HEIGHT = 30, 80


def sparkline(values: Sequence[float | None], label: str) -> Markup:
    """Return a line chart of *values*, the oldest first; None is a gap.

    :param label: what it shows, for screen readers.
    """
    known = [value for value in values if value is not None]
    if not known:
        return Markup("")
    top = max(known) or 1.0
    step = (_WIDTH - 2 * _PAD) / max(len(values) - 1, 1)
    lines: list[list[str]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            lines.append([])
            continue
        y = _HEIGHT - _PAD - value / top * (_HEIGHT - 2 * _PAD)
        lines[-1].append(f"{_PAD + index * step:.1f},{y:.1f}")
    # One point alone would not be visible.
    drawn = "".join(f'<polyline points="{" ".join(line if len(line) > 1 else line * 2)}"/>' for line in lines if line)
    text = f"{label}: now {known[-1]:g}, at most {max(known):g}"
    return Markup(
        '<svg class="spark" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(_WIDTH, _HEIGHT, text, Markup(drawn))


def bars(times: Sequence[datetime], label: str) -> Markup:
    """Return a bar chart of how many *times* there are in each of 30 equal parts between the first and the last.

    :param label: what it shows, for screen readers.
    """
    if not times:
        return Markup("")
    first, last = min(times), max(times)
    part = max((last - first) / _BARS, timedelta(seconds=1))
    counts = Counter(min(int((time - first) / part), _BARS - 1) for time in times)
    top = max(counts.values())
    drawn = "".join(
        f'<rect x="{index * 10 + 1}" y="{_BAR_HEIGHT - height:.1f}" width="8" height="{height:.1f}"/>'
        for index, count in sorted(counts.items())
        if (height := count / top * _BAR_HEIGHT)
    )
    text = f"{label}: {len(times)} from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC"
    return Markup(
        '<svg class="bars" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(_BARS * 10, _BAR_HEIGHT, text, Markup(drawn))
