"""How reflectances of Sentinel-2-like bands go together on Earth, to tell a natural order of bands from another.

Only directions are modelled: a spectrum and any multiple of it are the same, so unit and brightness play no part. The
direction of a spectrum, or of the difference of two places, follows a mixture of angular central Gaussians (Tyler
1987, Biometrika 74:579), whose marginals on fewer bands are of the same kind.

Axes: k component, s sample, c band.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")

SURE_OF_ONE = 1.6  # assumed, in nats per sample; measured: no clean typical image prefers another order at all
SURE_OF_MANY = 0.4  # assumed; measured: no clean dataset prefers another order
LEAST_GAIN = 0.1  # assumed; a swap that gains less is not worth a step
TYPICAL = 0.42  # assumed, in nats per band: noise and glint lie below, land and snow above
ATYPICAL = 3.0  # assumed; measured: clean overcast images reach 2.2 times SURE_OF_ONE
MOST = 5.0  # assumed; no image says more than this


@dataclass(frozen=True, eq=False)
class Scenes:
    """A mixture: weights (k,) and lower Cholesky factors (k 12 12) over BANDS."""

    weights: ndarray
    factors: ndarray

    def log_likelihood(self, samples: ndarray, bands: Sequence[str]) -> ndarray:
        """Log-density (s,) of the directions of samples (s c) of these bands, up to a constant that depends on c."""
        chosen = [BANDS.index(band) for band in bands]
        x = samples.astype(np.float64)
        length = np.maximum((x**2).sum(1), 1e-300)
        parts = []
        for weight, factor in zip(self.weights, self.factors, strict=True):
            covariance = (factor @ factor.T)[np.ix_(chosen, chosen)]
            form = (x @ np.linalg.inv(covariance) * x).sum(1) / length
            log_volume = np.linalg.slogdet(covariance)[1]
            parts.append(np.log(weight) - log_volume / 2 - len(chosen) / 2 * np.log(np.maximum(form, 1e-300)))
        return np.asarray(np.logaddexp.reduce(parts, axis=0))


@dataclass(frozen=True)
class Reordering:
    """Column `order[i]` holds what band i should; `gain` is in nats per sample, the mean over `images`."""

    order: tuple[int, ...]
    gain: float
    images: int


def likeliest_order(
    images: Sequence[tuple[ndarray, ndarray]],
    bands: Sequence[str],
    *,
    swaps: Sequence[tuple[int, int]],
    doubtful: ndarray,
    scenes: Scenes,
) -> Reordering | None:
    """The order that swaps lead to, while they gain; None if the pixels do not clearly prefer it to the stated one.

    An image gives contrasts (s c) and spectra (s c), and both have to gain. Images are heard that are not `doubtful`
    and whose contrasts are like known scenes under either order; if there is none, much more gain is asked for.
    """
    stated = tuple(range(len(bands)))
    before = _fit(images, bands, stated, scenes)
    order, now = stated, before
    for _ in stated:
        tries = [(_swapped(order, *swap), swap) for swap in swaps]
        fits = [(_fit(images, bands, other, scenes), other) for other, _ in tries]
        gains = [np.clip(fit - now, -MOST, MOST).mean(0).sum() for fit, _ in fits]
        if not fits or max(gains) < LEAST_GAIN:
            break
        now, order = fits[int(np.argmax(gains))]
    if order == stated:
        return None
    typical = ~doubtful & (np.maximum(before[:, 0], now[:, 0]) >= TYPICAL * len(bands))
    judged = typical if typical.any() else ~typical
    gain = np.clip(now - before, -MOST, MOST)[judged].mean(0)
    enough = max(SURE_OF_MANY, SURE_OF_ONE / np.sqrt(judged.sum())) * (1 if typical.any() else ATYPICAL)
    return Reordering(order, float(gain.sum()), int(judged.sum())) if gain.min() > 0 and gain.sum() > enough else None


def _swapped(order: tuple[int, ...], a: int, b: int) -> tuple[int, ...]:
    changed = list(order)
    changed[a], changed[b] = order[b], order[a]
    return tuple(changed)


def _fit(
    images: Sequence[tuple[ndarray, ndarray]], bands: Sequence[str], order: tuple[int, ...], scenes: Scenes
) -> ndarray:
    """Mean log-likelihood (image, 2) of contrasts and of spectra."""
    parts = [part for image in images for part in image]
    each = scenes.log_likelihood(np.concatenate(parts)[:, order], bands)
    starts = np.cumsum([0, *map(len, parts)])[:-1]
    means = np.add.reduceat(each, starts) / [len(part) for part in parts]
    return np.asarray(means).reshape(-1, 2)


def _factor(*rows: str) -> ndarray:
    """The lower triangle of a matrix, a row a line."""
    factor = np.zeros((len(BANDS), len(BANDS)))
    for row, text in enumerate(rows):
        values = [float(value) for value in text.split()]
        factor[row, : len(values)] = values
    return factor


# measured: fitted by benchmarks/fingerprint.py to s2_global, terramesh, eurosat_ms, treesatai_ts, worldcereal_cubes
SCENES = Scenes(
    weights=np.array([0.2700, 0.3472, 0.3827]),
    factors=np.stack(
        [
            _factor(
                "0.5478",
                "0.4385 0.0746",
                "0.4079 0.1225 0.0794",
                "0.3565 0.2008 0.0390 0.1019",
                "0.4929 0.2050 0.1493 0.0190 0.0813",
                "0.9865 0.1139 0.4846 -0.3557 0.2163 0.3068",
                "1.2230 0.0721 0.5962 -0.4876 0.2653 0.4681 0.1096",
                "1.2130 0.0924 0.6310 -0.5146 0.2809 0.4341 0.1191 0.1661",
                "1.3616 0.0724 0.6280 -0.5154 0.3134 0.5077 0.1228 0.0179 0.0792",
                "0.3433 0.0017 0.1502 -0.1273 0.0842 0.1090 0.0061 0.0250 -0.0155 0.1370",
                "0.8609 0.3250 0.2529 0.0464 0.1777 0.1188 0.0366 0.0379 0.0718 0.0310 0.1744",
                "0.5007 0.3037 0.1237 0.1292 0.0753 0.0189 0.0163 0.0196 0.0182 0.0183 0.0986 0.0727",
            ),
            _factor(
                "0.2946",
                "0.3577 0.0780",
                "0.4858 0.1245 0.0810",
                "0.5958 0.2006 0.1108 0.1206",
                "0.7392 0.2120 0.1933 0.0549 0.1023",
                "0.9355 0.1971 0.3400 -0.1463 0.2724 0.1268",
                "1.0186 0.2016 0.3840 -0.1936 0.3325 0.1581 0.0393",
                "1.0652 0.2321 0.4048 -0.2047 0.3604 0.1631 0.0450 0.0639",
                "1.0994 0.2162 0.4191 -0.2133 0.3946 0.1618 0.0553 0.0361 0.0483",
                "1.1082 0.1914 0.4206 -0.2110 0.3991 0.1597 0.0545 0.0377 0.0410 0.0714",
                "1.1960 0.3617 0.3578 0.1195 0.3151 0.0338 0.0631 0.0548 0.0824 0.0278 0.1977",
                "0.9564 0.3139 0.2355 0.1815 0.1434 0.0121 0.0264 0.0109 0.0221 0.0186 0.1545 0.0898",
            ),
            _factor(
                "1.0947",
                "1.1054 0.1681",
                "1.0234 0.1860 0.0963",
                "0.9887 0.1909 0.1075 0.0909",
                "1.0310 0.1757 0.1154 0.0914 0.0937",
                "1.0264 0.1702 0.1254 0.0925 0.1158 0.0865",
                "1.0168 0.1646 0.1299 0.0942 0.1243 0.1106 0.0408",
                "1.0412 0.2302 0.1013 0.0622 0.0803 0.1273 0.0277 0.1029",
                "0.9992 0.1625 0.1348 0.1006 0.1311 0.1279 0.0435 0.0063 0.0376",
                "0.9728 0.1146 0.1050 0.0455 0.1203 0.0731 0.0154 0.0553 -0.0015 0.1917",
                "0.5783 0.1087 0.0752 0.0383 0.1057 0.0838 0.0706 0.0117 0.0455 0.0962 0.2150",
                "0.4953 0.0837 0.0676 0.0434 0.0944 0.0737 0.0638 0.0070 0.0454 0.0958 0.1600 0.0703",
            ),
        ]
    ),
)
