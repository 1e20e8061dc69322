"""A whole study: run what is to be run, find, and write the folder's tables and page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomaestro.report.study_page import write_study_page
from geomaestro.runs import make_folder, write_json
from geomaestro.study.findings import find, find_published
from geomaestro.study.running import Outcome, run_study
from geomaestro.study.sets import places_of_sets
from geomaestro.study.spec import Study
from geomaestro.study.table import write_scores


@dataclass(frozen=True)
class Made:
    """What came of a study."""

    outcome: Outcome
    findings: dict[str, Any]
    page: Path


def make_study(study: Study, folder: Path, *, command: str, shard: tuple[int, int] = (0, 1)) -> Made:
    """Run a study, or a share of it, and report what is there so far.

    Raises:
        GeomaestroError: for anything wrong with the study, before anything is trained where possible.
    """
    if study.published is not None:
        make_folder(folder)
        outcome, findings = Outcome(1, 1, ()), find_published(study)
    else:
        outcome = run_study(study, folder, command=command, shard=shard)
        findings, rows = find(study, folder)
        write_scores(folder / "scores.csv", rows)
    progress = "published scores" if study.published else f"{outcome.finished} of {outcome.total} units"
    page = write_study_page(findings, places_of_sets(study, folder), progress, folder / "report.html")
    status = "complete" if outcome.finished == outcome.total else "partial"
    write_json(folder / "result.json", {"status": status, "command": command, **findings})
    return Made(outcome, findings, page)
