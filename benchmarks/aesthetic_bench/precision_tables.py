"""A results file of precision.py as tables. Computes nothing anew."""

from __future__ import annotations

from .tables import Record, Table, number, render_markdown

KIND = "precision-cpu"
DEFAULT = "sac+logos+ava1-l14-linearMSE"


def introduction(record: Record) -> list[str]:
    """What the figures were measured on."""
    where, found, parameters = record["machine"], record["versions"], record["parameters"]
    company = record["company"]["other_processes_share_of_cpu"]
    return [
        f"{where['cpu']}, {where['usable_cores']} cores; OpenVINO {found['openvino']}, torch "
        f"{found['torch']}, Python {where['python']}; {company:.0%} of the processors' time was "
        "others'",
        f"{record['date_utc']}, commit {found['git_commit'] or 'unknown'}; {parameters['images']} "
        f"images ({parameters['images_origin']}), {parameters['calibration_images']} of them for "
        f"calibration only; batch {parameters['batch']}; heads: {parameters['heads']}; weights: "
        f"{record['weights']}",
    ]


def tables(record: Record) -> list[Table]:
    """Cases by speed and, tower by tower, drift. The shipped ones are in bold."""
    towers = list(record["cases"][0]["towers"])

    def name(case: Record) -> str:
        return f"**{case['case']}**" if case["shipped"] else case["case"]

    drifts = []
    for case in record["cases"]:
        cells = []
        for tower in towers:
            found = case["towers"][tower]
            head = found["heads"][DEFAULT]
            cells.append(f"{head['mean']:.3f} / {head['p99']:.3f} / {head['max']:.3f}")
            cells.append(f"{found['largest_in_default_head']:.3f}")
            rank = min(one["rank_correlation"] or 0.0 for one in found["heads"].values())
            cells.append(f"{rank:.3f}")
        speed = case["speed"]
        rate = (number(speed["images_per_s"]), f"{number(speed['ratio'])}x")
        drifts.append((name(case), *rate, *cells))
    columns = [
        column
        for tower in towers
        for column in (
            f"{tower}: default head, mean / p99 / largest",
            f"{tower}: all heads, largest",
            f"{tower}: lowest rank correlation",
        )
    ]
    title = "Speed beside torch in eager fp32, and score drift"
    return [Table(title, ("", "images/s", "speed", *columns), tuple(drifts))]


def markdown(record: Record) -> str:
    """The whole file for a README."""
    return render_markdown(introduction(record), tables(record))
