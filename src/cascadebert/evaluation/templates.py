"""Jinja templates of this package, and how numbers are written in reports."""

from __future__ import annotations

from pathlib import Path

from cascadebert.errors import extra
from cascadebert.types import Interval


def percent(value: float) -> str:
    """A fraction as a percentage.

    >>> percent(0.12345)
    '12.3 %'
    """
    return f"{100 * value:.1f} %"


def percent_interval(fraction: Interval) -> str:
    """A fraction as a percentage with its interval.

    >>> percent_interval(Interval(0.98, 0.95, 0.99))
    '98.0 % (95.0 to 99.0)'
    """
    return f"{percent(fraction.value)} ({100 * fraction.low:.1f} to {100 * fraction.high:.1f})"


def points(difference: Interval) -> str:
    """A difference of fractions in percentage points with its interval.

    >>> points(Interval(-0.003, -0.013, 0.005))
    '-0.3 points (-1.3 to +0.5)'
    """
    value, low, high = (100 * end for end in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"


def times(ratio: float, limits: tuple[float, float]) -> str:
    """A speed-up with its range.

    >>> times(1.825, (1.8, 1.9))
    '1.82x (1.80 to 1.90)'
    """
    return f"{ratio:.2f}x ({limits[0]:.2f} to {limits[1]:.2f})"


def rate(per_second: float) -> str:
    """Texts per second, to two digits at least.

    >>> rate(1234.5), rate(3.14159)
    ('1,234', '3.1')
    """
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"


def duration(seconds: float) -> str:
    """A duration in seconds, or from two minutes in minutes.

    >>> duration(75.2), duration(754)
    ('75 s', '13 min')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"


def relative_cost(cost: float) -> str:
    """The cost of a model as a percentage of another's.

    >>> relative_cost(0.00123), relative_cost(1.0)
    ('0.123 %', '100 %')
    """
    return f"{100 * cost:.3g} %"


def capitalized(sentence: str) -> str:
    """The sentence with its first letter in upper case."""
    return sentence[:1].upper() + sentence[1:]


def render(name: str, **values: object) -> str:
    """Text of a template, given by its path below `cascadebert`; `.html` templates escape their values.

    Raises MissingExtra if jinja2 is not installed.
    """
    with extra("tune"):
        from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1]),
        autoescape=select_autoescape(("html",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (percent, percent_interval, points, times, rate, duration, relative_cost, capitalized)
    environment.filters |= {function.__name__: function for function in filters}
    return environment.get_template(name).render(**values)


def render_lines(name: str, **values: object) -> tuple[str, ...]:
    """The lines of a rendered template that are not blank."""
    return tuple(line.strip() for line in render(name, **values).splitlines() if line.strip())
