"""All numbers of a study as one CSV table, a metric of a job in each row."""

import csv
import io

from encdec.study.report.answers import traits
from encdec.study.report.reading import Results

COLUMNS = (
    "study", "data", "paradigm", "class", "has_encoder", "seed", "status", "metric", "value", "unit", "standard_error",
    "reference", "reference_name", "fingerprint", "problem",
)  # fmt: skip


def as_csv(results: Results) -> str:
    """One row for each metric of each job, in full precision; a job without a result has one row, which says why.

    A metric, or all of a question, that is not defined for a paradigm has a row without a value, which says why.
    """
    of = traits(results)
    written = io.StringIO()
    writer = csv.DictWriter(written, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for job in results.jobs:
        row = {
            "study": results.name,
            "data": job.data,
            "paradigm": job.paradigm,
            "seed": job.seed,
            "status": job.status,
            "problem": job.problem,
        }
        if job.paradigm in of:
            row |= {"class": of[job.paradigm].kind, "has_encoder": str(of[job.paradigm].has_encoder).lower()}
        if job.evaluation is None:
            writer.writerow(row)
            continue
        row["fingerprint"] = job.evaluation["data"]["fingerprint"]
        for name, measure in job.metrics.items():
            of_metric = {
                "metric": name,
                "value": repr(measure.value),
                "unit": measure.unit,
                "standard_error": "" if measure.standard_error is None else repr(measure.standard_error),
                "reference": "" if measure.reference is None else repr(measure.reference),
                "reference_name": measure.reference_name,
            }
            writer.writerow(row | of_metric)
        for name, why in job.evaluation.get("undefined", {}).items():
            if name not in job.metrics:
                writer.writerow(row | {"metric": name, "problem": f"undefined: {why}"})
    return written.getvalue()
