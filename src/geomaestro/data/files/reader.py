"""Scenes in files of any layout, as a `files` spec says.

Axes: t date, c band, h row, w column.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from geomaestro.data.files.align import about_middle, fitted, middle, on_ground
from geomaestro.data.files.coordinates import text_of
from geomaestro.data.files.filelabels import FileRaster, column_labels
from geomaestro.data.files.filespec import Dates, FileEntry, FilesSpec, FileTarget, Fit, Flags, Ground, Source
from geomaestro.data.files.finding import Finder, Found, Sources, check_fields
from geomaestro.data.files.listing import ID, LAT, LON, list_rows, put_places
from geomaestro.data.files.moments import MAX_DATES, WrittenDays, all_days, moments, of_array, of_cell, of_lines
from geomaestro.data.files.patterns import fields_of
from geomaestro.data.files.stored import Opener, Stored
from geomaestro.data.files.stores import whole
from geomaestro.data.files.tables import Row, Rows, column_of
from geomaestro.data.reading import check_sizes
from geomaestro.data.scenes import Scene, state_of, unknown_pixels
from geomaestro.errors import DataError, SpecError
from geomaestro.grid import Grid, Window

CALENDARS = ("standard", "gregorian", "proleptic_gregorian")  # of CF; the others have days that are not on ours


class FileScenes:
    """The scenes of some splits of a `files` dataset."""

    def __init__(self, spec: FilesSpec, root: Path, splits: tuple[str, ...]) -> None:
        self.spec, self.root = spec, root / spec.directory
        self._finder = Finder(self.root)
        rows = list_rows(spec, self.root, splits, self._locate)
        check_fields(spec, rows, self.root)
        self.draws_dates = any(entry.dates is not None for entry in spec.sensors.values())
        if spec.samples.place is not None and spec.samples.place not in {**spec.sensors, **spec.left_out}:
            put_places(spec.samples, rows, self.root)
        self._labels = {
            name: column_labels(name, target, rows, self.root)
            for name, target in spec.targets.items()
            if target.source is None and target.present_in is None
        }

        self.rows = Rows(rows)

    def _locate(self, rows: list[Row]) -> None:
        """Give rows the place that a sensor's georeference tells; one file of each is opened."""
        name = self.spec.samples.place
        assert isinstance(name, str), "list_rows asks only where it names a sensor"
        entry = self.spec.entry(name)
        for row in rows:
            with Opener() as opener:
                sources = Sources(self._finder, row, opener)
                try:
                    groups = sources.files(entry, entry.bands)[:1]
                    grid = sources.open(entry, groups, 1, False).grid()
                    row[LON], row[LAT] = (None, None) if grid is None else middle(grid)
                except DataError:  # its place is not known; reading the sample says why
                    row[LON], row[LAT] = None, None
                    continue
            if grid is None:
                raise DataError(f"{sources.where(entry)}: has no georeference, so `samples.blocks` has no place for it")

    def __len__(self) -> int:
        return len(self.rows)

    def ids(self) -> list[str]:
        """Names of the scenes, in order."""
        return self.rows.column(ID)

    def places(self) -> list[tuple[float, float] | None]:
        """Longitude and latitude where the table tells them."""
        known = (self.rows[index] for index in range(len(self)))
        return [(row[LON], row[LAT]) if row.get(LON) is not None else None for row in known]

    def labels(self, target: str) -> np.ndarray:
        """Labels of all scenes, in order."""
        return self._labels[target]

    def files(self, index: int) -> list[Path]:
        """The files of the images of a scene, there or not."""
        with Opener() as opener:
            sources = Sources(self._finder, self.rows[index], opener)
            asked = [
                (source, entry.bands)
                for entry in self.spec.sensors.values()
                for source in (entry, entry.clouds, entry.invalid)
                if source is not None
            ]
            return [found.path for how in asked for group in sources.files(*how) for found in group]

    @contextmanager
    def scene(self, index: int) -> Iterator[Scene]:
        """One scene; its files are open inside the context alone."""
        row = self.rows[index]
        with Opener() as opener:
            reader = _SceneReader(self.spec, Sources(self._finder, row, opener))
            series = reader.all_series()
            maps = reader.all_maps()
            labels = {name: values[index] for name, values in self._labels.items()}
            yield Scene(
                id=row[ID],
                series=series,
                reference_date=reader.reference_date(series),
                labels=labels,
                maps=maps,
                place=reader.place(),
            )


class FileSeries:
    """One sensor's images in files. What `state` has to look at is read once per window."""

    def __init__(
        self,
        where: str,
        entry: FileEntry,
        stored: Stored,
        days: np.ndarray | WrittenDays,
        flags: Mapping[str, "FlagReader"],
    ) -> None:
        self.where, self.entry, self.stored, self.flags = where, entry, stored, flags
        self._days = days
        self.shape = stored.shape
        self._read: tuple[Window, np.ndarray] | None = None

    @property
    def days(self) -> np.ndarray:
        """(t 3) int16: year, day of year, hour."""
        return all_days(self._days)

    def days_of(self, dates: np.ndarray | None) -> np.ndarray:
        """(d 3) of some dates, or of all."""
        if isinstance(self._days, WrittenDays):
            return self._days.of(dates)
        return self._days if dates is None else self._days[dates]

    def read(self, dates: np.ndarray | None, window: Window) -> np.ndarray:
        """Stored numbers (d c h w) of some dates, or of all."""
        if self._read is not None and self._read[0] == window:
            return self._read[1] if dates is None else self._read[1][dates]
        images = self.stored.read(dates, window)
        if dates is None:
            self._read = (window, images)
        return images

    def state(self, window: Window, *, clouds: bool = True) -> np.ndarray | None:
        """(t h w) bits, or None."""
        cloudy = self.flags["clouds"].read(window) if clouds and "clouds" in self.flags else None
        unknown = self._by_number(window)
        others = [self.stored.unmeasured(window)]
        if "invalid" in self.flags:
            others.append(self.flags["invalid"].read(window))
        for other in others:
            if other is not None:
                unknown = other if unknown is None else unknown | other
        if unknown is not None:
            unknown = np.broadcast_to(unknown, (self.shape[0], window.height, window.width))
        return state_of(unknown, cloudy)

    def _by_number(self, window: Window) -> np.ndarray | None:
        if self.entry.nodata is None and self.stored.dtype.kind != "f":
            return None
        return unknown_pixels(self.read(None, window), self.entry.nodata)


class FlagReader:
    """Pixels told by another raster, on the grid of the images they belong to."""

    def __init__(self, how: Flags, stored: Stored) -> None:
        self.how, self.stored = how, stored

    def read(self, window: Window) -> np.ndarray:
        """(t h w) True where the rule holds."""
        x = self.stored.read(None, window)
        told = x > self.how.above if self.how.above is not None else np.isin(x, self.how.values)
        return np.asarray(told.any(axis=1))


class _SceneReader:
    """Opens what one row of the table stands for."""

    def __init__(self, spec: FilesSpec, sources: Sources) -> None:
        self.spec, self.sources, self.row = spec, sources, sources.row
        self._ground = None if spec.ground is None else self._extent(spec.ground)

    def all_series(self) -> dict[str, FileSeries]:
        """The sensors that this place has."""
        out = {}
        for name, entry in self.spec.sensors.items():
            if not entry.optional or self.sources.exists(entry, entry.bands):
                out[name] = self._series(name, entry)
        if not out:
            raise DataError(f"{self.sources.finder.root}: sample {self.row[ID]!r} has none of the sensors of its spec")
        return out

    def _series(self, name: str, entry: FileEntry) -> FileSeries:
        groups = self.sources.files(entry, entry.bands)
        days = self._days(name, entry, groups)
        per_file = entry.dates is not None and entry.dates.field in fields_of(entry.path)
        if per_file and len(days) == len(groups):  # names need not sort as their dates do
            days = all_days(days)
            order = np.lexsort(days.T[::-1])
            groups, days = [groups[i] for i in order], days[order]
        where = self.sources.where(entry)
        stored = self.sources.open(entry, groups, len(days), per_file)
        if stored.shape[0] != len(days):
            raise DataError(
                f"{where}: sensor {name!r} has {stored.shape[0]} images (bands, rows, columns: {stored.shape[1:]}) but "
                f"{len(days)} dates; see `axes` and `dates` of the sensor"
            )
        check_sizes(name, where, stored.shape[1:], {"bands": len(entry.bands)})
        flags = {}
        for kind, how in (("clouds", entry.clouds), ("invalid", entry.invalid)):
            if how is not None:
                flags[kind] = self._flags(how, name, (stored.shape[2], stored.shape[3]), days)
        stored = self._placed(where, stored, self._grid(name), entry.fit, entry.nodata, self._size(name))
        return FileSeries(where, entry, stored, days, flags)

    def _flags(self, how: Flags, name: str, size: tuple[int, int], days: np.ndarray | WrittenDays) -> FlagReader:
        """Pixels told of images of a stored size and of these days, brought to where the images are brought."""
        entry = self.spec.entry(name)
        groups, where = self.sources.files(how, entry.bands), self.sources.where(how)
        per_file = entry.dates is not None and entry.dates.field in fields_of(how.path)
        if per_file and entry.dates is not None and entry.dates.field is not None and groups:
            told = self._days_of_names(entry.dates, entry.dates.field, groups, where)
            order = np.lexsort(told.T[::-1])
            groups = [groups[i] for i in order]
            if not np.array_equal(told[order], all_days(days)):
                raise DataError(f"{where}: the dates of its {len(told)} files are not those of the {len(days)} images")
        stored = self.sources.open(how, groups, len(days), per_file)
        if stored.shape[0] != len(days):
            raise DataError(f"{where}: has {stored.shape[0]} dates, but the images that it tells of {len(days)}")
        if self._ground is None and not _same_extent((stored.shape[2], stored.shape[3]), size):
            rows, cols = stored.shape[2:]
            raise DataError(
                f"{where}: is {rows} x {cols} pixels, which does not divide the {size[0]} x {size[1]} of its images"
            )
        if self._ground is None:
            stored = fitted(where, stored, size, "nearest", None)
        fit: Fit = "pad" if entry.fit == "pad" else "nearest"
        return FlagReader(how, self._placed(where, stored, self._grid(name), fit, None, self._size(name)))

    def _placed(
        self,
        where: str,
        stored: Stored,
        grid: Grid | None,
        how: Fit,
        nodata: float | None,
        size: tuple[int, int] | None,
    ) -> Stored:
        if grid is not None:
            return on_ground(where, stored, grid, how, nodata)
        return stored if size is None else fitted(where, stored, size, how, nodata)

    def _size(self, name: str) -> tuple[int, int] | None:
        """Size that whole images are brought to; None if a crop is taken of whatever there is."""
        entry = self.spec.entry(name)
        return entry.to_px or (entry.input.size_px if self.spec.crop is None else None)

    def _grid(self, name: str) -> Grid | None:
        """The sample's extent in pixels of a sensor, where samples are brought to one extent."""
        size = self._size(name)
        if self._ground is None or size is None:
            return None
        return self._ground.resampled(*size)

    def _extent(self, how: Ground) -> Grid:
        grid = self._grid_of(how.sensor)
        if grid is None:
            where = self.sources.where(self.spec.entry(how.sensor))
            raise DataError(f"{where}: has no georeference, but `ground` of its spec needs one; leave `ground` out")
        return grid if how.size_m is None else about_middle(grid, how.size_m)

    def _grid_of(self, name: str) -> Grid | None:
        """The georeference of a sensor's files, whether it is read or left out."""
        entry = self.spec.entry(name)
        groups = self.sources.files(entry, entry.bands)
        per_file = entry.dates is not None and entry.dates.field in fields_of(entry.path)
        return self.sources.open(entry, groups, len(self._days(name, entry, groups)), per_file).grid()

    def all_maps(self) -> dict[str, FileRaster]:
        """The maps of labels."""
        out = {}
        for name, target in self.spec.targets.items():
            if target.source is not None:
                out[name] = self._map(name, target, target.source)
        return out

    def _map(self, name: str, target: FileTarget, source: Source) -> FileRaster:
        where = self.sources.where(source)
        sensor = target.reference_sensor or next(iter(self.spec.sensors))
        size = target.to_px or self._size(sensor)
        if target.optional and not self.sources.exists(source, ()):
            return FileRaster(name, target, None, size or self.spec.entry(sensor).input.size_px, where)
        stored = self.sources.open(source, self.sources.files(source, ()), 1, False)
        grid = None if self._ground is None or size is None else self._ground.resampled(*size)
        how: Fit = "nearest" if grid is not None or target.to_px else "none"
        stored = self._placed(where, stored, grid, how, None, size)
        return FileRaster(name, target, stored, (stored.shape[2], stored.shape[3]), where)

    def _days(self, name: str, entry: FileEntry, groups: list[list[Found]]) -> np.ndarray | WrittenDays:
        """(t 3) the dates of a sensor."""
        how = entry.dates
        if how is None:
            given = self.spec.reference_date
            if not isinstance(given, str):
                return np.asarray([given], np.int16)
            if given == name:
                raise SpecError(f"sensor {name!r} is the reference date but has no `dates`")
            return self._first_day(given)[None]
        if how.field is not None:
            return self._days_of_names(how, how.field, groups, self.sources.where(entry))
        return self._days_said(how, groups, self.sources.where(entry))

    def _days_said(self, how: Dates, groups: list[list[Found]], where: str) -> np.ndarray | WrittenDays:
        if how.fixed is not None:
            return of_cell(how.fixed, how, where)
        if how.column is not None:
            return of_cell(column_of(self.row, how.column, where), how, where)
        if how.file is not None:
            found = self.sources.finder.find(how.file, self.row)
            if len(found) != 1:
                raise DataError(f"{where}: {len(found)} files fit {how.file!r}, which holds its dates; one is expected")
            return of_lines(found[0].path, how)
        assert how.array is not None, "Dates checks it"
        if len(groups) != 1:
            raise DataError(f"{where}: dates are read from one file with all of them, there are {len(groups)}")
        return days_of_array(self.sources.opener, groups[0][0].path, how)

    def _days_of_names(self, how: Dates, field: str, groups: list[list[Found]], where: str) -> np.ndarray:
        if field in self.row:
            return moments([self.row[field]], how, where)
        missing = [group[0].path for group in groups if field not in group[0].fields]
        if missing:
            raise SpecError(f"{missing[0]}: {{{field}}} is neither in its path nor in the table; see `dates.field`")
        return moments([group[0].fields[field] for group in groups], how, where)

    def reference_date(self, series: Mapping[str, FileSeries]) -> np.ndarray:
        """(3) the date that others are counted from."""
        given = self.spec.reference_date
        if not isinstance(given, str):
            return np.asarray(given, np.int16)
        days = series[given].days if given in series else None
        return np.asarray(days[0]) if days is not None and len(days) else self._first_day(given)

    def _first_day(self, name: str) -> np.ndarray:
        """(3) the first date of the sensor that `reference_date` names.

        Raises:
            DataError: naming the sample, if it lacks that sensor.
        """
        entry = self.spec.entry(name)
        days = all_days(self._days(name, entry, self.sources.files(entry, entry.bands)))
        if len(days) == 0:
            raise DataError(
                f"{self.sources.finder.root}: sample {self.row[ID]!r} has no date of {name!r}, which `reference_date` "
                "names; name a sensor that all samples have, or a date"
            )
        return np.asarray(days[0])

    def place(self) -> tuple[float, float] | None:
        """Longitude and latitude, from the table or the georeference of the files as they are stored."""
        if self.row.get(LON) is not None:
            return self.row[LON], self.row[LAT]
        name = self.spec.samples.place
        if not isinstance(name, str):
            return None
        entry = self.spec.entry(name)
        grid = self._grid_of(name) if self.sources.exists(entry, entry.bands) else None
        return None if grid is None else middle(grid)


def _same_extent(coarse: tuple[int, int], fine: tuple[int, int]) -> bool:
    """True if pixels of the one are whole squares of pixels of the other."""
    each = max(1, fine[0] // max(1, coarse[0]))
    return (coarse[0] * each, coarse[1] * each) == fine


def days_of_array(opener: Opener, path: Path, how: Dates) -> np.ndarray | WrittenDays:
    """(t 3) dates in an array of a file; names are read when they are asked for."""
    assert how.array is not None, "the caller looks"
    values = opener.array(path, how.array)
    shape = values.shape
    if math.prod(shape) > MAX_DATES:
        raise DataError(f"{path}: {how.array!r} declares {math.prod(shape)} dates, more than {MAX_DATES}")
    if values.dtype.kind in "SO" and len(shape) == 1 and hasattr(values, "id"):
        return WrittenDays(values, how, str(path))
    numbers = values.dtype.kind in "iuf"
    attributes = getattr(values, "attrs", {}) if numbers else {}
    units, calendar = attributes.get("units"), text_of(attributes.get("calendar", CALENDARS[0])).lower()
    if calendar not in CALENDARS:
        raise DataError(f"{path}: {how.array!r} counts in the calendar {calendar!r}; read are {', '.join(CALENDARS)}")
    return of_array(whole(path, values), None if units is None else text_of(units)[:200], how, str(path))
