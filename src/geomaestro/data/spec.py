"""Dataset specs: a YAML that says where the samples are. Built-in datasets use the format that users write."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from geomaestro.config import Strict, apply_overrides, check, merge, read_yaml
from geomaestro.errors import SpecError
from geomaestro.sensors import Input, ModelInput, Sensor

TREESAT_SENSORS = ("aerial", "s2", "s1_asc", "s1_des")
Axis = Literal["date", "band", "row", "col"]


class SensorEntry(Sensor):
    """A sensor of a dataset, with the model input that suits it."""

    input: Input

    def sensor(self) -> Sensor:
        """What the sensor measures, without how it is stored."""
        return Sensor(**{name: getattr(self, name) for name in Sensor.model_fields})

    def model_input(self) -> ModelInput:
        """What a model makes of it by default."""
        return ModelInput(sensor=self.sensor(), input=self.input)


class Target(Strict):
    """Labels of a dataset.

    `kind` "classes" is one class per sample, "multilabel" any number, "regression" numbers, "pixels" a class per
    pixel. Where the files hold shares of classes, "classes" takes the largest, "multilabel" those above `threshold`.
    """

    kind: Literal["classes", "multilabel", "regression", "pixels"]
    classes: tuple[str, ...] = Field(min_length=1)
    ignore: int = -1
    threshold: float | None = None
    reference_sensor: str | None = None
    label_px: int | None = None
    """Label pixels to a side of one patch of `reference_sensor`, for pixels."""


class Common(Strict):
    """What every dataset spec has.

    `reference_date` is a sensor's name (the date of its first image) or (year, day of year, hour): the date that
    time offsets are counted from. `position_grid` is the common ground grid of the models' position codes.
    """

    name: str
    about: str = ""
    source: str = ""
    licence: str = ""
    reference_date: str | tuple[int, int, int]
    position_grid: int | None = None
    directory: str = "."


class TreeSatSpec(Common):
    """Files as in TreeSatAI-TS: aerial GeoTIFF, one HDF5 of Sentinel series per sample, a CSV per split."""

    kind: Literal["treesatai_ts"]
    sensors: dict[str, SensorEntry]
    targets: dict[str, Target] = Field(default_factory=dict)
    aerial_shift_px: int = 2
    cloudy_above: float | None = 0.0
    """A date is cloudy where any snow or cloud percentage exceeds this; None looks at no clouds."""
    hours: bool = False
    """Take the hour from product names. The official code has 0 everywhere, and its weights have learned with that."""

    @model_validator(mode="after")
    def _sensors_of_these_files(self) -> "TreeSatSpec":
        unknown = sorted(set(self.sensors) - set(TREESAT_SENSORS))
        if unknown:
            raise ValueError(f"sensors: {', '.join(unknown)} not in such files; they hold {', '.join(TREESAT_SENSORS)}")
        return self


class ArrayEntry(SensorEntry):
    """A sensor in an array whose first axis is the sample; `axes` names the others."""

    array: str
    axes: tuple[Axis, ...]

    @model_validator(mode="after")
    def _axes_once(self) -> "ArrayEntry":
        if len(set(self.axes)) != len(self.axes):
            raise ValueError(f"axes {', '.join(self.axes)}: an axis is named twice")
        return self


class ArrayTarget(Target):
    """Labels in an array; `codes` maps stored codes to classes, `others: ignore` leaves the rest without a label."""

    array: str
    codes: dict[int, str] | None = None
    others: Literal["refuse", "ignore"] = "refuse"

    @model_validator(mode="before")
    @classmethod
    def _classes_from_codes(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("codes"), dict) and "classes" not in values:
            return {**values, "classes": tuple(dict.fromkeys(values["codes"].values()))}
        return values

    @model_validator(mode="after")
    def _codes_lead_to_classes(self) -> "ArrayTarget":
        unknown = sorted(set((self.codes or {}).values()) - set(self.classes))
        if unknown:
            raise ValueError(f"codes: {', '.join(unknown)} not among the classes {', '.join(self.classes)}")
        return self


class ArrayDates(Strict):
    """Arrays (sample, date) of the parts of dates; `day` is an array's name, or one day of the month for all."""

    year: str
    month: str
    day: str | int = 15


class ArraySpec(Common):
    """Arrays in one HDF5 or npz file or Zarr group; the first axis of each is the sample."""

    kind: Literal["arrays"]
    file: str
    id: str | None = None
    place: tuple[str, str] | None = None
    """Names of the arrays of longitude and latitude, in degrees."""
    length: str | None = None
    """Array with the number of dates of each sample; later ones are absent."""
    dates: ArrayDates | None = None
    split: str | None = None
    sensors: dict[str, ArrayEntry]
    targets: dict[str, ArrayTarget] = Field(default_factory=dict)


DatasetSpec = TreeSatSpec | ArraySpec
_KINDS: Mapping[str, type[TreeSatSpec] | type[ArraySpec]] = {"treesatai_ts": TreeSatSpec, "arrays": ArraySpec}


def load_spec(name_or_path: str | Path, overrides: Sequence[str] = ()) -> DatasetSpec:
    """The spec of a built-in dataset by name, or of a YAML file; `extends: NAME` starts from another.

    Raises:
        SpecError: listing every wrong key and value.
    """
    values, source = _read(str(name_or_path))
    values = apply_overrides(values, overrides)
    kind = str(values.get("kind"))
    if kind not in _KINDS:
        raise SpecError(f"{source}: kind {kind!r} is not one of {', '.join(_KINDS)}")
    return check(_KINDS[kind], values, source)


def _read(name: str, depth: int = 0) -> tuple[dict[str, Any], str]:
    path = builtin_specs().get(name) or Path(name)
    if not path.suffix:
        raise SpecError(
            f"no built-in dataset {name!r} ({', '.join(builtin_specs())}), and no path to a spec.yaml either"
        )
    values = read_yaml(path)
    base = values.pop("extends", None)
    if base is None:
        return values, str(path)
    if depth > 4:
        raise SpecError(f"{path}: `extends` goes in a circle")
    parent, _ = _read(str(base), depth + 1)
    if "targets" in values:
        parent.pop("targets", None)  # labels of another dataset are never meant
    return merge(parent, values), str(path)


@cache
def builtin_specs() -> dict[str, Path]:
    """Built-in specs by name."""
    folder = Path(str(resources.files("geomaestro.data.datasets")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
