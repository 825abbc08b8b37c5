"""The frontier of precision.py as a picture: speed across, drift up, the shipped points marked."""

from __future__ import annotations

from pathlib import Path

from .tables import Record

MARKERS = ("o", "s", "^", "D")
FLOOR = 1e-4  # fp32's own rounding lies below; it is drawn here
AIMS = {"bf16": (2.8, 0.02), "int8": (5.0, 0.05)}  # speed against torch, largest drift


def write(record: Record, path: Path) -> None:
    """An SVG of a results file. The same record gives the same bytes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "precision", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
        colours = pyplot.get_cmap("tab10").colors
        towers = list(record["cases"][0]["towers"])
        for colour, case in zip(colours, record["cases"], strict=False):
            across = [case["speed"]["ratio"]] * len(towers)
            up = [max(case["towers"][one]["largest_in_default_head"], FLOOR) for one in towers]
            axes.plot(across, up, color=colour, linewidth=1, zorder=2)
            for marker, x, y in zip(MARKERS, across, up, strict=False):
                edge = "black" if case["shipped"] else colour
                axes.scatter(x, y, 70, color=colour, marker=marker, edgecolors=edge, zorder=3)
            star = " (shipped)" if case["shipped"] else ""
            axes.plot([], [], color=colour, linewidth=4, label=f"{case['case']}{star}")
        for marker, tower in zip(MARKERS, towers, strict=False):
            axes.scatter([], [], 50, color="grey", marker=marker, label=f"{tower} tower")
        for name, (x, y) in AIMS.items():
            axes.plot([x, x], [FLOOR, y], color="black", linestyle=":", linewidth=1)
            axes.plot([x, x + 0.6], [y, y], color="black", linestyle=":", linewidth=1)
            axes.annotate(f"{name}: aim", (x, y), (3, 3), textcoords="offset points", fontsize=8)
        axes.set_yscale("log")
        axes.set_xlabel("speed, torch eager fp32 = 1 (batch 8, all cores)")
        axes.set_ylabel(f"largest score drift of all heads, in the default's points (or {FLOOR:g})")
        axes.set_title("The tower in bf16 and int8: speed and drift (random weights)")
        axes.grid(True, which="both", alpha=0.2)
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)
