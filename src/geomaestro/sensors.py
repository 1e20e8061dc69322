"""What a sensor measures, and how a model takes it in.

`Sensor` is the contract between data and model: both sides declare one, and `require_same` refuses a mismatch.
`Input` is what a model makes of a sensor: pixels, patch, dates, groups.
"""

from collections.abc import Mapping
from math import log as ln
from typing import Literal, Self

from pydantic import Field, model_validator

from geomaestro.config import Strict
from geomaestro.errors import SpecError

UNITS = {
    "reflectance_1e4": "surface or top-of-atmosphere reflectance times 10,000",
    "reflectance": "reflectance between 0 and 1",
    "linear_power": "radar backscatter, linear",
    "dB": "radar backscatter, decibel",
    "dn8": "8-bit digital numbers, 0 to 255",
    "m": "metres",
    "K": "kelvin",
    "mm": "millimetres of water",
    "degree": "angle",
    "other": "not comparable with anything else",
}


class Scaling(Strict):
    """Stored number -> model input: ((ln(max(x, 1e-10)) if log else x) - subtract) / divide_by, band by band.

    `heights` then replaces every band but the first by 30 * (first - band), as the official code does for a
    surface and a terrain model. `eight_bit` makes floor(255 y) / 255 of y cut to 0..1, as an 8-bit image would hold it.
    Source: official codes of MAESTRO; of SatMAE for `eight_bit`, with subtract = mean - 2 deviations, divide_by = 4
    deviations of each band.
    """

    log: bool = False
    subtract: float | tuple[float, ...] = 0.0
    divide_by: float | tuple[float, ...] = 1.0
    heights: bool = False
    eight_bit: bool = False


class Sensor(Strict):
    """One image source: named bands, ground sampling distance, unit and normalisation.

    `scale` and `offset` turn stored numbers into `unit`. `groups` are the sizes of the consecutive bands that
    share one mean and one spread in the reconstruction target.
    """

    bands: tuple[str, ...] = Field(min_length=1)
    gsd_m: float = Field(gt=0)
    unit: str = "other"
    wavelengths_nm: tuple[float, ...] | None = None
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    groups: tuple[int, ...] = ()
    scaling: Scaling = Scaling()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        count = len(self.bands)
        if len(set(self.bands)) != count:
            raise ValueError(f"bands are named twice: {', '.join(self.bands)}")
        if self.unit not in UNITS:
            raise ValueError(f"unit {self.unit!r} is not one of {', '.join(UNITS)}")
        if any(size < 1 for size in self.groups):
            raise ValueError(f"groups {list(self.groups)} hold a group of less than one band")
        if self.groups and sum(self.groups) != count:
            raise ValueError(f"groups {list(self.groups)} cover {sum(self.groups)} bands, but {count} are listed")
        for name in ("subtract", "divide_by"):
            value = getattr(self.scaling, name)
            if isinstance(value, tuple) and len(value) != count:
                raise ValueError(f"scaling.{name} has {len(value)} numbers for {count} bands")
        if 0 in (self.scaling.divide_by if isinstance(self.scaling.divide_by, tuple) else (self.scaling.divide_by,)):
            raise ValueError("scaling.divide_by is 0; leave it out where nothing is to be divided")
        if self.wavelengths_nm is not None and len(self.wavelengths_nm) != count:
            raise ValueError(f"wavelengths_nm has {len(self.wavelengths_nm)} numbers for {count} bands")
        return self

    @property
    def target_groups(self) -> tuple[int, ...]:
        """Sizes of the band groups normalised together; one group of all bands where none is given."""
        return self.groups or (len(self.bands),)


class Input(Strict):
    """How a model takes a sensor in.

    `size_px` is (height, width) seen by the model. `resize` names how other sizes are brought to it; "none" accepts
    any size that is a whole number of patches, and positions follow the ground. `token_bands` are the sizes of the
    consecutive bands that get tokens of their own (token-based spectral fusion); empty means one token for all.
    `fusion_group` joins similar sensors in one sequence; `shares_embedding` names the sensor whose tokeniser and
    pixel layer this one uses.
    """

    size_px: tuple[int, int]
    patch_px: int = Field(ge=1)
    dates: int = Field(default=1, ge=1)
    resize: Literal["none", "nearest", "bilinear", "bicubic"] = "none"
    token_bands: tuple[int, ...] = ()
    fusion_group: str | None = None
    shares_embedding: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _square(cls, values: object) -> object:
        if isinstance(values, dict) and isinstance(values.get("size_px"), int):
            return {**values, "size_px": (values["size_px"],) * 2}
        return values

    @model_validator(mode="after")
    def _whole_patches(self) -> Self:
        if any(side < self.patch_px or side % self.patch_px for side in self.size_px):
            height, width = self.size_px
            fits = [p for p in range(1, min(self.size_px) + 1) if height % p == 0 and width % p == 0]
            raise ValueError(
                f"size_px {height} x {width} is not a whole number of {self.patch_px}-pixel patches; "
                f"patch_px could be {', '.join(map(str, fits[:12]))}"
            )
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (rows, cols) of one date."""
        return self.size_px[0] // self.patch_px, self.size_px[1] // self.patch_px


class ModelInput(Strict):
    """A sensor and how a model takes it in: all that an encoder knows of its data."""

    sensor: Sensor
    input: Input

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        bands = len(self.sensor.bands)
        if any(size < 1 for size in self.input.token_bands):
            raise ValueError(f"token_bands {list(self.input.token_bands)} hold a token of less than one band")
        if self.input.token_bands and sum(self.input.token_bands) != bands:
            raise ValueError(f"token_bands {list(self.input.token_bands)} do not add up to {bands} bands")
        return self

    @property
    def token_bands(self) -> tuple[int, ...]:
        """Bands of each token of a patch; one token of all bands by default."""
        return self.input.token_bands or (len(self.sensor.bands),)

    @property
    def tokens(self) -> int:
        """Tokens of one sample: band groups x dates x patches."""
        rows, cols = self.input.grid
        return len(self.token_bands) * self.input.dates * rows * cols


def require_same(name: str, data: Sensor, model: Sensor) -> None:
    """Refuse to feed a model another sensor than it knows: bands in order, unit, ground sampling distance.

    Raises:
        SpecError: naming the sensor, both sides and the remedy.
    """
    if data.bands != model.bands:
        how = "in another order" if set(data.bands) == set(model.bands) else "different"
        raise SpecError(
            f"sensor {name!r}: the data's bands ({', '.join(data.bands)}) are {how} from the model's "
            f"({', '.join(model.bands)}); correct `sensors.{name}.bands` in the dataset spec"
        )
    if data.unit != model.unit:
        raise SpecError(
            f"sensor {name!r}: the data is in {data.unit} but the model was trained on {model.unit}; "
            f"set `sensors.{name}.scale`, `offset` and `unit` in the dataset spec"
        )
    if abs(ln(data.gsd_m / model.gsd_m)) > ln(1.5):  # assumed: a model tolerates modest changes of resolution
        raise SpecError(
            f"sensor {name!r}: the data has a ground sampling distance of {data.gsd_m} m, the model {model.gsd_m} m; "
            "resample the data, or pretrain at its resolution"
        )


def check_sensors(data: Mapping[str, Sensor], model: Mapping[str, ModelInput], *, need_all: bool) -> None:
    """Check every sensor that data and model share.

    Raises:
        SpecError: if a sensor differs, if none is shared, or if `need_all` and the model lacks one of the data's.
    """
    unknown = sorted(set(data) - set(model))
    if need_all and unknown:
        raise SpecError(
            f"the checkpoint has no sensor {', '.join(unknown)} (it knows {', '.join(sorted(model))}); "
            "drop it from `data.sensors`, or pretrain with it"
        )
    shared = sorted(set(data) & set(model))
    if not shared:
        raise SpecError(f"data ({', '.join(sorted(data))}) and model ({', '.join(sorted(model))}) share no sensor")
    for name in shared:
        require_same(name, data[name], model[name].sensor)
