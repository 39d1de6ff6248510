"""Numbers written for people: three significant digits, percentages, thousands set apart."""

from __future__ import annotations

import math

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MINUS = "−"

Real = float | int


def number(x: Real | None, digits: int = 3) -> str:
    """`x` to so many significant digits; powers of ten beyond 0.001 … 100,000; a dash for None.

    Example:
        >>> from ntkit.report.wording import number
        >>> [number(x) for x in (9.7654, 0.0123456, 12345.6, 3.2e-7, -1.5, None)]
        ['9.77', '0.0123', '12,300', '3.2×10⁻⁷', '−1.5', '–']
    """
    if x is None:
        return "–"
    if math.isnan(x):
        return "undefined"
    if math.isinf(x):
        return "∞" if x > 0 else f"{MINUS}∞"
    if x == 0:
        return "0"
    mantissa, exponent = f"{abs(x):.{digits - 1}e}".split("e")
    power, sign = int(exponent), MINUS if x < 0 else ""
    if -4 < power < 5:
        rounded = float(f"{mantissa}e{power}")
        return sign + _plain(f"{rounded:,.{max(digits - 1 - power, 0)}f}")
    mantissa = _plain(mantissa)
    return sign + (power_of_ten(power) if mantissa == "1" else f"{mantissa}×{power_of_ten(power)}")


def _plain(decimal: str) -> str:
    """Without the zeros that end a decimal fraction: 3.10 reads 3.1."""
    return decimal.rstrip("0").rstrip(".") if "." in decimal else decimal


def power_of_ten(exponent: int) -> str:
    """10 to a whole power.

    Example:
        >>> from ntkit.report.wording import power_of_ten
        >>> power_of_ten(-12)
        '10⁻¹²'
    """
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def tick(x: Real) -> str:
    """A round number as short as it can be: 0.05, 200, 10⁻⁶.

    Example:
        >>> from ntkit.report.wording import tick
        >>> [tick(x) for x in (0.05, 200.0, 1e-6, 5e7, -2.0, 0.0)]
        ['0.05', '200', '10⁻⁶', '5×10⁷', '−2', '0']
    """
    if x == 0:
        return "0"
    sign = MINUS if x < 0 else ""
    mantissa, exponent = f"{abs(x):.5e}".split("e")
    power, mantissa = int(exponent), f"{float(mantissa):g}"
    if -4 < power < 5:
        return sign + _plain(f"{float(f'{mantissa}e{power}'):,.10f}")
    return sign + (power_of_ten(power) if mantissa == "1" else f"{mantissa}×{power_of_ten(power)}")


def percent(x: Real | None, digits: int = 3) -> str:
    """A share as a percentage with at most two decimals; what is not zero never reads as 0%.

    Example:
        >>> from ntkit.report.wording import percent
        >>> [percent(x) for x in (0.9312, 1.0, 0.0123, 0.00042, 3e-6, 0.0, -0.021)]
        ['93.1%', '100%', '1.23%', '0.04%', '<0.01%', '0%', '−2.1%']
    """
    if x is None or not math.isfinite(x):
        return number(x)
    if x == 0:
        return "0%"
    size, sign = abs(100 * x), MINUS if x < 0 else ""
    if size < 0.01:
        return "<0.01%" if x > 0 else f"{MINUS}<0.01%"
    if size >= 1000:
        return f"{number(100 * x, digits)}%"
    whole = len(str(int(size))) if size >= 1 else 1
    return f"{sign}{_plain(f'{size:.{max(digits - whole, 0)}f}')}%"


def count(n: int) -> str:
    """A whole number with its thousands set apart.

    Example:
        >>> from ntkit.report.wording import count
        >>> count(932362)
        '932,362'
    """
    return f"{n:,}"


def several(n: int, noun: str, plural: str | None = None) -> str:
    """A count and its noun, in the plural where there is not exactly one.

    Example:
        >>> from ntkit.report.wording import several
        >>> several(1, "output"), several(1000, "sample"), several(10, "class", "classes")
        ('1 output', '1,000 samples', '10 classes')
    """
    return f"{count(n)} {noun if n == 1 else plural or noun + 's'}"
