"""What is gathered: a recipe that says where, what, when and how many."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from geomaestro.config import Strict, apply_overrides, check, merge, read_yaml
from geomaestro.data.spec import PackedSpec, SensorEntry
from geomaestro.errors import SpecError
from geomaestro.select.gather.dates import Dates
from geomaestro.select.gather.drawing import Drawing, least_spacing_m
from geomaestro.select.gather.known import SENSORS, KnownSensor
from geomaestro.select.gather.regions import region_of
from geomaestro.sensors import Input, Scaling

# What may change while a set is gathered: how it is fetched, not what it holds.
FETCHING = ("tries", "timeout_s", "backoff_s", "threads", "sign", "token_url", "max_in_a_row", "about")
TOKEN_URL = "https://planetarycomputer.microsoft.com/api/sas/v1/token"


class GatherSpec(Strict):
    """A recipe of `geomaestro gather`.

    `region` is a continent, `world`, a box (west, south, east, north), a .geojson file, or a list of these, which share
    `count` equally. `bands` are stored in this order, `assets` names those of a catalogue where its own words do not
    tell. Bands of coarser pixels are brought to `gsd_m` by `resampling`. `offset_dn` is what newer processing added
    to the stored numbers, and is taken off again: told by each item (`auto`), or the same for all.
    """

    name: str = "gathered"
    about: str = ""
    region: str | tuple[float, float, float, float] | tuple[str, ...]
    count: int = Field(ge=1)
    sensor: str = "sentinel-2-l2a"
    stac: str
    collection: str | None = None
    bands: tuple[str, ...] = ()
    assets: dict[str, str] = Field(default_factory=dict)
    size_px: int = Field(default=96, ge=8, le=2048)
    patch_px: int = Field(default=8, ge=1)
    gsd_m: float = Field(default=10, gt=0)
    resampling: Literal["nearest", "bilinear"] = "nearest"
    dates: Dates = Dates(years=(2019, 2020, 2021))
    max_cloud_percent: float = Field(default=20, ge=0, le=100)
    """Of a whole scene, as its item tells."""
    flags: bool = True
    """Read the raster of clouds per pixel, where the sensor has one."""
    max_cloudy_share: float = Field(default=1, ge=0, le=1)
    max_water_share: float = Field(default=1, ge=0, le=1)
    """Continents reach some 20 km into the sea (select/places.py); less than 1 leaves such patches out."""
    max_unknown_share: float = Field(default=0, ge=0, le=1)
    offset_dn: Literal["auto"] | int = "auto"
    scaling: Scaling | None = None
    """From stored numbers to model inputs; mean and deviation of what was gathered, if left out."""
    seed: int = Field(default=0, ge=0)
    spacing_m: float | None = None
    val_share: float = Field(default=0.05, ge=0, lt=1)
    block_deg: float = Field(default=1, gt=0, le=90)
    places_per_shard: int = Field(default=256, ge=1, le=100_000)
    reserve: float = Field(default=3, ge=0, le=100)
    """Places kept to replace those without a scene, as a multiple of those that are wanted."""
    max_items: int = Field(default=200, ge=1, le=10_000)
    items_per_interval: int = Field(default=2, ge=1, le=100)
    sign: Literal["auto", "none", "planetary-computer"] = "auto"
    """Add tokens to addresses of files; `auto` does so for the Planetary Computer."""
    token_url: str = TOKEN_URL
    tries: int = Field(default=5, ge=1, le=100)
    timeout_s: float = Field(default=60, gt=0, le=3600)
    backoff_s: float = Field(default=1, ge=0, le=600)
    threads: int = Field(default=8, ge=1, le=256)
    max_in_a_row: int = Field(default=24, ge=1)
    """So many places one after the other that can't be read stop the run: the server is down."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.sensor not in SENSORS:
            near = difflib.get_close_matches(self.sensor, SENSORS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"sensor {self.sensor!r} is not one of {', '.join(SENSORS)}{hint}")
        known = {band.name for band in self.known.bands}
        for said, names in (("bands", self.bands), ("assets", [name for name in self.assets if name != "flags"])):
            unknown = sorted(set(names) - known)
            if unknown:
                raise ValueError(f"{said}: {', '.join(unknown)} not among {', '.join(sorted(known))}")
        if self.spacing_m is not None and self.spacing_m < self.least_spacing_m:
            raise ValueError(
                f"spacing_m {self.spacing_m:g}: patches would overlap; give {self.least_spacing_m:.0f} or more"
            )
        if self.size_px % self.patch_px:
            raise ValueError(
                f"size_px {self.size_px} is not a whole number of {self.patch_px}-pixel patches (patch_px)"
            )
        return self

    @property
    def known(self) -> KnownSensor:
        """The sensor."""
        return SENSORS[self.sensor]

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Bands as stored, in groups: the sensor's usual ones, or one of those that the recipe names."""
        return (self.bands,) if self.bands else self.known.usual

    @property
    def band_names(self) -> tuple[str, ...]:
        """Bands as stored."""
        return tuple(name for group in self.groups for name in group)

    @property
    def least_spacing_m(self) -> float:
        """Distance of places at which patches never overlap."""
        coarsest = max(band.gsd_m for band in self.known.bands)
        return least_spacing_m(self.size_px * self.gsd_m, max(coarsest, self.gsd_m))

    @property
    def regions(self) -> tuple[str | tuple[float, ...], ...]:
        """Regions, one after the other."""
        several = isinstance(self.region, tuple) and all(isinstance(part, str) for part in self.region)
        return self.region if several else (self.region,)  # type: ignore[return-value]

    def drawings(self) -> list[Drawing]:
        """Where places of each region come from.

        Raises:
            SpecError: if a region is unknown, or one is named twice.
        """
        regions = [region_of(part) for part in self.regions]
        twice = [region.name for region in regions if [x.name for x in regions].count(region.name) > 1]
        if twice:
            raise SpecError(f"region: {twice[0]!r} is named twice")
        spacing = self.spacing_m or self.least_spacing_m * 1.05
        rest = (spacing, self.least_spacing_m, self.places_per_shard, self.reserve)
        return [Drawing(region, self.seed, *rest) for region in regions]

    def content(self) -> dict[str, Any]:
        """All that decides what the set holds."""
        return self.model_dump(mode="json", exclude=set(FETCHING))

    def stored(self, scaling: Scaling | None = None) -> PackedSpec:
        """The spec of the store."""
        known = {band.name: band for band in self.known.bands}
        entry = SensorEntry(
            bands=self.band_names,
            gsd_m=self.gsd_m,
            unit=self.known.unit,
            wavelengths_nm=tuple(known[name].nm for name in self.band_names),
            nodata=self.known.nodata,
            groups=tuple(len(group) for group in self.groups),
            scaling=self.scaling or scaling or Scaling(),
            input=Input(size_px=(self.size_px, self.size_px), patch_px=self.patch_px),
        )
        source = f"collection {self.collection or self.known.collection} of {self.stac}, gathered by geomaestro"
        return PackedSpec(
            kind="packed",
            name=self.name,
            about=self.about,
            source=source,
            reference_date=self.known.name,
            sensors={self.known.name: entry},
        )


def load_gather(recipe: Path | str | None, overrides: Sequence[str], said: Mapping[str, Any]) -> GatherSpec:
    """A recipe, with `key=value` overrides and what a command says (None: nothing); `extends: FILE` starts from
    another one beside it. Where the recipe's name is no file but `key=value`, it is an override, and there is no
    recipe. A file of polygons counts from the current folder.

    Raises:
        SpecError: listing every wrong key and value.
    """
    if isinstance(recipe, str) and "=" in recipe and not Path(recipe).is_file():
        overrides, recipe = (recipe, *overrides), None
    values = apply_overrides({} if recipe is None else _read(Path(recipe)), overrides)
    given = {key: value for key, value in said.items() if value is not None}
    return check(GatherSpec, merge(values, given), "gather" if recipe is None else str(recipe))


def _read(path: Path, depth: int = 0) -> dict[str, Any]:
    values = read_yaml(path)
    base = values.pop("extends", None)
    if base is None:
        return values
    if depth > 4:
        raise SpecError(f"{path}: `extends` goes in a circle")
    return merge(_read(path.parent / str(base), depth + 1), values)
