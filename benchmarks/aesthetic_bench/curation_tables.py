"""A results file of curation.py in words. Computes nothing anew."""

from __future__ import annotations

from .tables import Record

KIND = "curation-cpu"


def introduction(record: Record) -> list[str]:
    """The rate, what a sample costs, whether memory grows; and what it was measured on."""
    where, found, parameters = record["machine"], record["versions"], record["parameters"]
    memory = record["memory"]
    return [
        f"{record['scored']} samples, {record['samples_per_s']:.0f}/s; processor time a sample "
        f"{record['worker_us_per_sample']:.0f} us here, {record['server_us_per_sample']:.0f} us in "
        f"the server; memory {memory['early_mib']:.0f} MiB early, {memory['late_mib']:.0f} MiB "
        "late",
        f"{where['cpu']}, {where['usable_cores']} cores; tritonclient {found['tritonclient']}, "
        f"numpy {found['numpy']}, Python {where['python']}; load average "
        f"{where['load_average_1min_before']} before, {where['load_average_1min_after']} after",
        f"{record['date_utc']}, commit {found['git_commit'] or 'unknown'}; "
        f"--workers {parameters['workers']}, --in-flight {parameters['in_flight']}, tars of "
        f"{parameters['samples_per_shard']} samples, images of {parameters['image_bytes']} bytes",
    ]


def markdown(record: Record) -> str:
    """The whole file: lines, since there is but one case."""
    return "".join(f"{line}\n" for line in introduction(record))
