"""The grey image that is learned, as a function on the unit square.

The portrait is among matplotlib's sample data; Pillow, which matplotlib requires, reads it. Between the centres of its
pixels the brightness is interpolated linearly, and constant beyond the outermost ones; each pixel then has the same
weight, so that the integral over the square is the mean of the pixels.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.ndimage import map_coordinates

from ntkit.errors import DataError, MissingDependency

PORTRAIT = "grace_hopper.jpg"
SOURCE = "Portrait of Grace Hopper (public domain) among matplotlib's sample data, cut to a square at the top."


def load_image(pixels: int) -> Float[np.ndarray, "p p"]:
    """The portrait in so many pixels a side, averaged over squares; from 0, black, to 1.

    Raises:
        DataError: matplotlib was installed without its sample data, or the file cannot be read.
        MissingDependency: matplotlib is not installed.
    """
    try:
        from matplotlib.cbook import get_sample_data
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f'the image ships with matplotlib, but {error.name!r} cannot be imported; run: pip install "ntkit[report]"'
        ) from error
    try:
        with Image.open(get_sample_data(PORTRAIT, asfileobj=False)) as picture:
            side = min(picture.size)
            left = (picture.width - side) // 2
            square = picture.convert("L").crop((left, 0, left + side, side))
    except OSError as error:
        raise DataError(
            f"the image {PORTRAIT} among matplotlib's sample data cannot be read ({error}); some distributions leave "
            "the sample data out: install matplotlib from PyPI"
        ) from error
    return np.asarray(square.resize((pixels, pixels), Image.Resampling.BOX), dtype=np.float64) / 255


def brightness_at(image: Float[np.ndarray, "p p"], points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n"]:
    """The image at points of [0, 1]², the first coordinate to the right, the second downwards.

    Example:
        >>> brightness_at(np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([[0.5, 0.5], [0.0, 0.0], [0.75, 0.9]])).tolist()
        [1.5, 0.0, 3.0]
    """
    places = points[:, ::-1].T * len(image) - 0.5
    return map_coordinates(image, places, order=1, mode="nearest")


def density_of(image: Float[np.ndarray, "p p"], floor: float) -> Float[np.ndarray, "p p"]:
    """Brightness, raised by `floor`, of mean one: a probability density over the unit square."""
    raised = image + floor
    return raised / raised.mean()


def draw_points(density: Float[np.ndarray, "p p"], n: int, rng: np.random.Generator) -> Float[np.ndarray, "n 2"]:
    """Points with the density that `brightness_at` interpolates, by rejection from uniform ones."""
    kept = np.empty((0, 2))
    while len(kept) < n:
        proposed = rng.random((2 * n, 2))
        accepted = brightness_at(density, proposed) > density.max() * rng.random(2 * n)
        kept = np.concatenate([kept, proposed[accepted]])
    return kept[:n]


def grid_points(side: int) -> Float[np.ndarray, "g 2"]:
    """The centres of side × side squares, row by row from the top, as an image has them."""
    centres = (np.arange(side) + 0.5) / side
    return np.stack([np.tile(centres, side), np.repeat(centres, side)], axis=1)
