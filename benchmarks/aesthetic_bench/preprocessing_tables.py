"""A results file of preprocessing.py as tables. Computes nothing anew but ratios."""

from __future__ import annotations

from .tables import Record, Table, number, render_markdown

KIND = "preprocessing-cpu"
REFERENCE = "reference: Pillow alone"
EXACT = "exact"
PILLOW_ONLY = "exact, without simplejpeg"
FAST = "fast"
FASTER = "as fast, but decoded down to 224 (not offered)"


def introduction(record: Record) -> list[str]:
    """What the figures were measured on."""
    where, found, parameters = record["machine"], record["versions"], record["parameters"]
    # Earlier records have neither this nor numba's version.
    unused = record.get("kernels", {}).get("unused_because")
    numba = f"numba {found.get('numba') or 'none'}" + (f" (not used: {unused})" if unused else "")
    return [
        f"{where['cpu']}, {where['usable_cores']} cores; Pillow {found['pillow']}, simplejpeg "
        f"{found['simplejpeg'] or 'none'}, {numba}, numpy "
        f"{found['numpy']}, Python {where['python']}; load average "
        f"{where['load_average_1min_before']} before, "
        f"{where['load_average_1min_after']} after",
        f"{record['date_utc']}, commit {found['git_commit'] or 'unknown'}; "
        f"{parameters['images']['count']} images, {parameters['images']['origin']}; median of "
        f"{parameters['rounds']} rounds of {parameters['seconds']:g} s",
    ]


def tables(record: Record) -> list[Table]:
    """Ways by sizes for each format: images a second and core, with the ratio to the reference."""
    found = []
    for kind in dict.fromkeys(case["format"] for case in record["cases"]):
        cases = [case for case in record["cases"] if case["format"] == kind]
        sizes = list(dict.fromkeys(case["megapixels"] for case in cases))
        ways = list(dict.fromkeys(case["way"] for case in cases))
        by_place = {(case["way"], case["megapixels"]): case for case in cases}

        def rate(way: str, size: float, by_place: Record = by_place) -> str:
            own = by_place[way, size]["images_per_s_per_core"]
            return (
                f"{number(own)} ({own / by_place[REFERENCE, size]['images_per_s_per_core']:.2f}x)"
            )

        def off(way: str, size: float, by_place: Record = by_place) -> str:
            difference = by_place[way, size]["pixel_difference"]
            return f"{difference['mean']:.2f} / {difference['largest']:.0f}"

        def others(way: str, size: float, by_place: Record = by_place) -> str:
            return f"{by_place[way, size]['other_processes_share_of_cpu']:.0%}"

        columns = ("", *(f"{size:g} MP" for size in sizes))
        for title, cell in (
            (f"{kind}: images a second and core", rate),
            (f"{kind}: pixel difference from the reference, mean / largest of 255", off),
            (f"{kind}: share of the processors that other processes took", others),
        ):
            rows = tuple((way, *(cell(way, size) for size in sizes)) for way in ways)
            found.append(Table(title, columns, rows))
    if crowds := record.get("threads"):
        found.append(_threads(crowds))
    if drift := record["score_drift"]:
        rows = tuple(
            (
                f"{one['megapixels']:g} MP",
                *(f"{one[name]:.2g}" for name in ("mean", "largest", "sd_between_images")),
            )
            for one in drift["by_size"]
        )
        title = (
            f"What fast changes in the score; weights {drift['weights']}, {drift['head']} head: "
            "where these are random the scores are meaningless, and the change a lower bound"
        )
        found.append(Table(title, ("", "mean", "largest", "sd between images"), rows))
    return found


def _threads(crowds: list[Record]) -> Table:
    """Sizes by ways and threads, with the ratio to the reference in one thread."""
    sizes = dict.fromkeys(crowd["megapixels"] for crowd in crowds)
    rates = {
        (crowd["way"], crowd["threads"], crowd["megapixels"]): crowd["images_per_s"]
        for crowd in crowds
    }

    def cell(way: str, threads: int, size: float) -> str:
        own = rates[way, threads, size]
        return f"{number(own)} ({own / rates[REFERENCE, 1, size]:.2f}x)"

    rows = tuple(
        (
            f"{way}, {threads} thread{'s' if threads > 1 else ''}",
            *(cell(way, threads, size) for size in sizes),
        )
        for way, threads in dict.fromkeys((way, threads) for way, threads, _ in rates)
    )
    title = "JPEG: images a second of the whole machine, by the clock"
    return Table(title, ("", *(f"{size:g} MP" for size in sizes)), rows)


def markdown(record: Record) -> str:
    """The whole file for a README."""
    return render_markdown(introduction(record), tables(record))
