"""A results file of client_cost.py as tables. Computes nothing anew."""

from __future__ import annotations

from typing import Any

from .tables import QUIET_SHARE, Record, Table, number, render_markdown

KIND = "client-cpu"
COLUMNS = {
    "requests/s": "requests_per_s",
    "images/s": "images_per_s",
    "client us an image": "client_us_per_image",
    "client cores": "client_cores",
    "server cores": "server_cores",
    "others' cores": "others_cores",
}


def introduction(record: Record) -> list[str]:
    """What the figures were measured on, and whether the targets were reached."""
    where, versions, parameters = record["machine"], record["versions"], record["parameters"]
    company = max(case["others_cores"] for case in record["cases"]) / where["usable_cores"]
    noisy = (
        f"NOT A QUIET MACHINE: others took up to {company:.0%} of its processors; these rates are "
        "lower than the client's"
    )
    return [
        f"{where['cpu']}, {where['usable_cores']} cores; tritonclient {versions['tritonclient']}, "
        f"numpy {versions['numpy']}, Python {where['python']}; load average "
        f"{where['load_average_1min_before']} before, {where['load_average_1min_after']} after",
        f"{record['date_utc']}, commit {versions['git_commit'] or 'unknown'}; "
        f"{parameters['in_flight']} requests at a time, median of {parameters['rounds']} rounds of "
        f"{parameters['seconds']:g} s",
        *(
            f"{name}: {number(found['images_per_s'])} images/s by {found['way']}, "
            f"{'reaches' if found['reached'] else 'MISSES'} {number(found['target_images_per_s'])}"
            for name, found in record["targets"].items()
        ),
        *([noisy] if company > QUIET_SHARE else []),
    ]


def tables(record: Record) -> list[Table]:
    """The ways side by side, and where the time goes."""
    ways = tuple(
        (
            f"{case['payload']}: {case['way']}",
            *(number(case[key]) for key in COLUMNS.values()),
        )
        for case in record["cases"]
    )
    stages: dict[str, Any] = record["stages"]
    spent = tuple(
        (stage, *(number(stages[name][stage]["client_us_per_image"]) for name in stages))
        for stage in next(iter(stages.values()))
    )
    return [
        Table("One client process before a server that answers at once", ("", *COLUMNS), ways),
        Table("Where the client's time goes, us an image", ("stage", *stages), spent),
    ]


def markdown(record: Record) -> str:
    """The whole file for a README."""
    return render_markdown(introduction(record), tables(record))
