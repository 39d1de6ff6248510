"""Makes src/ntkit/infinite/compiled/polynomials.py: `python dev/fit_polynomials.py`.

Each function is interpolated at Chebyshev points in 60 digits and written in powers, lowest first; the degree is the
smallest whose relative error is below a quarter of the number type's rounding.
"""

from pathlib import Path

import mpmath as mp

mp.mp.dps = 60


def arcsine_ratio(z):
    """arcsin(√z)/√z."""
    return mp.hyp2f1(0.5, 0.5, 1.5, z)


def lens_ratio(z):
    """(sin θ − θ cos θ)/z^(3/2) with z = sin²(θ/2)."""
    if z < mp.mpf("1e-12"):
        return mp.mpf(8) / 3
    theta = 2 * mp.asin(mp.sqrt(z))
    return (mp.sin(theta) - theta * mp.cos(theta)) / z ** mp.mpf(1.5)


def sine_ratio(z):
    """sin(√z)/√z."""
    return mp.sincpi(mp.sqrt(z) / mp.pi)


def exp_fraction(r):
    """exp(r)."""
    return mp.exp(r)


def expm1_ratio(r):
    """(exp(r) − 1)/r."""
    return mp.expm1(r) / r if r else mp.mpf(1)


FUNCTIONS = {  # name -> (function, interval)
    "ARCSINE": (arcsine_ratio, (0, mp.mpf("0.25"))),
    "ANGLE": (arcsine_ratio, (0, mp.mpf("0.5"))),
    "LENS": (lens_ratio, (0, mp.mpf("0.5"))),
    "SINE": (sine_ratio, (0, (mp.pi / 2) ** 2)),
    "EXP": (exp_fraction, (-mp.log(2) / 2, mp.log(2) / 2)),
    "EXPM1": (expm1_ratio, (-mp.log(2) / 2, mp.log(2) / 2)),
}
ROUNDING = {"float32": mp.mpf(2) ** -26, "float64": mp.mpf(2) ** -55}


def interpolate(function, interval, degree):
    """Powers of the interpolating polynomial, lowest first."""
    low, high = interval
    nodes = [
        (low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (2 * k + 1) / (2 * degree + 2)) for k in range(degree + 1)
    ]
    rows = mp.matrix([[x**j for j in range(degree + 1)] for x in nodes])
    return list(mp.lu_solve(rows, mp.matrix([function(x) for x in nodes])))


def error(coefficients, function, interval):
    """The largest relative error."""
    low, high = interval
    points = [low + (high - low) * k / 200 for k in range(201)]
    return max(abs(mp.polyval(list(reversed(coefficients)), x) / function(x) - 1) for x in points)


def fit(function, interval, rounding):
    """The polynomial of the lowest degree that is good enough."""
    for degree in range(3, 40):
        coefficients = interpolate(function, interval, degree)
        if error(coefficients, function, interval) < rounding:
            return coefficients
    raise ArithmeticError("no degree below 40 is enough")


def main():
    """Writes the file."""
    lines = [
        '"""Polynomials of the compiled elementary functions, lowest power first; made by dev/fit_polynomials.py.',
        "",
        "ARCSINE  arcsin(√z)/√z on [0, 1/4]            ANGLE  the same on [0, 1/2]",
        "LENS     (sin θ − θ cos θ)/z^(3/2), z = sin²(θ/2) in [0, 1/2]",
        "SINE     sin(√z)/√z on [0, (π/2)²]            EXP, EXPM1  exp(r), (exp(r) − 1)/r on ±ln 2/2",
        '"""',
        "",
        "# fmt: off",
    ]
    for name, (function, interval) in FUNCTIONS.items():
        lines.append(f"{name} = {{")
        for dtype, rounding in ROUNDING.items():
            values = [mp.nstr(c, 20) for c in fit(function, interval, rounding)]
            rows = [", ".join(values[k : k + 4]) for k in range(0, len(values), 4)]
            lines.append(f'    "{dtype}": (')
            lines += [f"        {row}," for row in rows]
            lines.append("    ),")
            print(name, dtype, len(values) - 1)
        lines.append("}")
    path = Path(__file__).parents[1] / "src/ntkit/infinite/compiled/polynomials.py"
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
