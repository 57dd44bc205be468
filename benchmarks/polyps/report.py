"""Seeds of `study.py` or `ways.py` together: a table, and a figure of own, partner's and unseen patients.

    python benchmarks/polyps/report.py WORK -host A -partner B -seeds 1 2 3 -of ways [-rows ...] [-figure FILE.png]

Of each test case the mean over seeds counts once; intervals are 95 % bootstrap intervals over cases, stratified by
hospital where several are averaged. Brackets behind a mean are the seeds.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np

SETS = {"own": "own", "partner": "partner's", "unseen": "unseen"}
RESAMPLES = 9999


def read(work: Path, of: str, host: str, partner: str, seeds: list[int]) -> list[dict[str, dict[str, np.ndarray]]]:
    """By seed, row and test set: Dice of each case."""
    from nnunetv2_stitch.fileio import read_json
    found = []
    for seed in seeds:
        cases = read_json(str(work / f"{of}_{host}{partner}_{seed}" / f"{of}.json"))["cases"]
        found.append({row: {s: np.array(v, dtype=float) for s, v in sets.items()} for row, sets in cases.items()})
    return found


def hospitals(by_set: dict[str, np.ndarray], which: str) -> list[np.ndarray]:
    return [v for s, v in by_set.items() if s == which or (which == "unseen" and s.startswith("unseen"))]


def mean(values: list[np.ndarray]) -> float:
    return float(np.mean([np.nanmean(v) for v in values]))


def interval(values: list[np.ndarray], rng: np.random.Generator) -> tuple[float, float]:
    means = []
    for v in values:
        v = v[np.isfinite(v)]
        means.append(v[rng.integers(0, len(v), (RESAMPLES, len(v)))].mean(1))
    return tuple(map(float, np.quantile(np.mean(means, 0), (0.025, 0.975))))


def together(found: list[dict], row: str) -> dict[str, np.ndarray]:
    """Of each case the mean over seeds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a case without a polyp that no seed found one in
        return {s: np.nanmean([f[row][s] for f in found], 0) for s in found[0][row]}


def table(found: list[dict], rows: list[str], against: tuple[str, ...]) -> str:
    """Markdown: means with the seeds, and paired differences to the rows of `against` with their intervals."""
    rng = np.random.default_rng(12345)
    heads = [*(f"{t}" for t in SETS.values()), *(f"{t}, to {a}" for a in against for t in SETS.values())]
    lines = [f"| way | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for row in rows:
        cells, all_seeds = [], together(found, row)
        for which in SETS:
            seeds = [mean(hospitals(f[row], which)) for f in found]
            each = f" ({', '.join(f'{s:.3f}' for s in seeds)})" if len(seeds) > 1 else ""
            cells.append(f"{np.mean(seeds):.3f}{each}")
        for other in against:
            base = together(found, other)
            for which in SETS:
                of = [v - w for v, w in zip(hospitals(all_seeds, which), hospitals(base, which))]
                low, high = interval(of, rng)
                cells.append(f"{mean(of):+.3f} ({low:+.3f} to {high:+.3f})" if row != other else "")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: list[dict], rows: list[str], path: str, title: str) -> None:
    """A row for each way; own, partner's and unseen side by side; mean, interval over cases, and each seed."""
    from nnunetv2_stitch.figures.style import BLUE, VERMILLION, new_figure, own_style, tidy, write

    @own_style
    def drawn():
        rng = np.random.default_rng(12345)
        figure = new_figure(9.5, 0.8 + 0.3 * len(rows))
        panels = figure.subplots(1, 3, sharey=True)
        for axes, (which, name) in zip(panels, SETS.items()):
            for y, row in enumerate(rows):
                values = hospitals(together(found, row), which)
                low, high = interval(values, rng)
                colour = VERMILLION if row == "recommended" else BLUE
                axes.plot([low, high], [y, y], color=colour, linewidth=1.2)
                axes.plot(mean(values), y, "o", color=colour, markersize=6)
                seeds = [mean(hospitals(f[row], which)) for f in found]
                axes.plot(seeds, [y] * len(seeds), "|", color="black", markersize=7)
            axes.set_title(f"{name} patients", fontsize=10)
            axes.set_xlabel("mean Dice")
            axes.grid(axis="x", linewidth=0.4, alpha=0.5)
            tidy(axes)
        panels[0].set_yticks(range(len(rows)), rows)
        panels[0].invert_yaxis()
        figure.suptitle(title, fontsize=11)
        write(figure, path)
    drawn()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("-host", default="A", choices=tuple("ABCE"))
    parser.add_argument("-partner", default="B", choices=tuple("ABCE"))
    parser.add_argument("-seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("-of", default="study", choices=("study", "ways"))
    parser.add_argument("-rows", nargs="+", help="default: all that every seed has")
    parser.add_argument("-against", nargs="+", default=["A alone"], help="rows that the others are compared with")
    parser.add_argument("-figure", metavar="FILE.png")
    parser.add_argument("-title", default="")
    args = parser.parse_args()
    found = read(args.work.resolve(), args.of, args.host, args.partner, args.seeds)
    rows = args.rows or [r for r in found[0] if all(r in f for f in found)]
    print(table(found, rows, tuple(args.against)))
    if args.figure:
        draw(found, rows, args.figure, args.title)


if __name__ == "__main__":
    main()
