"""Does one job in a process of its own: reads {"suite": ..., "row": ...}, prints the result as a line of JSON."""

import json
import sys

from benchmarks.machine import is_out_of_memory
from benchmarks.models import Row
from benchmarks.one_row import measure, measure_memory, measure_versus
from benchmarks.ranks import measure_ranks

MEASURES = {
    "step": measure,
    "versus": measure_versus,
    "memory": measure_memory,
    "scaling": measure,
    "ranks": measure_ranks,
}
OUT_OF_MEMORY = "out of memory"


def main() -> None:
    """Do the job; that memory runs out is a result."""
    job = json.loads(sys.argv[1])
    try:
        result = MEASURES[job["suite"]](Row(**job["row"]))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        result = {"failed": OUT_OF_MEMORY}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
