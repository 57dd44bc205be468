"""Draws the diagrams of the pages into docs/figures: `python docs/make_diagrams.py`. Nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text
from PIL import Image

from nnunetv2_stitch.figures.style import BLUE, GREEN, GREY, ORANGE, new_figure

FIGURES = Path(__file__).resolve().parent / "figures"
PLAIN, ASK, HOST, PARTNER, RESULT = "#F2F2F2", "#FFF4D6", "#D9EAF7", "#FCE8C8", "#DDF3EA"
EDGES = {PLAIN: GREY, ASK: "#B8860B", HOST: BLUE, PARTNER: ORANGE, RESULT: GREEN}


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure in inches whose axes count hundredths of its width and height, from the lower left."""
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.axis("off")
    return figure, axes


def box(axes: Axes, x: float, y: float, text: str, colour: str = PLAIN, size: float = 8.5, **how) -> Text:
    return axes.text(x, y, text, ha="center", va="center", fontsize=size, linespacing=1.35, zorder=3, **how,
                     bbox={"boxstyle": "round,pad=0.45", "facecolor": colour, "edgecolor": EDGES[colour]})


def arrow(axes: Axes, start: Text, end: Text, label: str = "", bend: float = 0.0, at: float = 0.5,
          style: str = "-", ends: str = "-|>") -> None:
    """From one box to the other; `at` says where along the way the label stands."""
    (x0, y0), (x1, y1) = start.get_position(), end.get_position()
    axes.figure.canvas.draw()
    axes.add_patch(FancyArrowPatch((x0, y0), (x1, y1), patchA=start.get_bbox_patch(), patchB=end.get_bbox_patch(),
                                   arrowstyle=ends, mutation_scale=11, color="0.35", linewidth=1.1, linestyle=style,
                                   shrinkA=2, shrinkB=2, connectionstyle=f"arc3,rad={bend}", zorder=2))
    if label:
        axes.text(x0 + at * (x1 - x0), y0 + at * (y1 - y0), label, ha="center", va="center", fontsize=7.5,
                  color="0.25", zorder=4, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2})


def save(figure: Figure, name: str, colours: int = 64) -> None:
    """As a PNG with a palette, which is a fraction of the size."""
    path = FIGURES / name
    figure.savefig(path, format="png", dpi=144)
    Image.open(path).convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)


def which_way() -> None:
    figure, axes = canvas(7.6, 9.6)
    info = box(axes, 33, 96, "nnUNetv2_stitch_info A -m_b B.zip\nDoes anything block?", ASK)
    blocked = box(axes, 82, 96, "one party trains again\nwith the other's plans")
    own = box(axes, 33, 86, "Does your own model still gain from training?", ASK)
    longer = box(axes, 82, 86, "train it to the end first")
    rounds = box(axes, 33, 75.5, "Will every hospital train on,\nfrom one common model, in several rounds?", ASK)
    merge = box(axes, 82, 75.5, "MERGE (by files) or\nFEDERATE (all online)\none network", RESULT)
    shares = box(axes, 33, 63.5, "May each image have its own\nmixture of both? (recommended)", ASK)
    plain = box(axes, 82, 66.5, "PLAIN ENSEMBLE\nstock nnU-Net, nothing is trained", RESULT)
    stitched = box(axes, 82, 57.5, "STITCHED ENSEMBLE (the paper's)\nloses less on own images", RESULT)
    train = box(axes, 33, 50, "Can you train on your images,\n100 epochs per fold?", ASK)
    direct = box(axes, 82, 46.5, "GATE between A and B\n-fit direct -gate on\none pass over your images", RESULT)
    adapt = box(axes, 33, 36, "nnUNetv2_adapt_party A -m_b B.zip\nIs it as good as your own model\n"
                              "on your validation cases?", ASK)
    adapted = box(axes, 82, 34, "ADAPTED PARTNER alone\none network", RESULT)
    gate = box(axes, 33, 23, "GATE between A and the adapted partner\n-fit direct -gate on", RESULT)
    single = box(axes, 33, 10.5, "Must it be one network, or run\nwhere only nnU-Net is installed?", ASK)
    distil = box(axes, 82, 10.5, "DISTIL\none network", RESULT)
    arrow(axes, info, blocked, "yes")
    arrow(axes, info, own, "no")
    arrow(axes, own, longer, "yes", at=0.6)
    arrow(axes, own, rounds, "no")
    arrow(axes, rounds, merge, "yes")
    arrow(axes, rounds, shares, "no: two finished models")
    arrow(axes, shares, plain, "no; no training")
    arrow(axes, shares, stitched, "no; one pass", at=0.47)
    arrow(axes, shares, train, "yes")
    arrow(axes, train, direct, "no")
    arrow(axes, train, adapt, "yes")
    arrow(axes, adapt, adapted, "yes", at=0.55)
    arrow(axes, adapt, gate, "no, your own is better")
    arrow(axes, gate, single)
    arrow(axes, single, distil, "yes")
    around(axes, [(stitched, 57.5), (direct, 46.5)], 98.5, (distil, 10.5))
    axes.text(97.5, 22, "if it must be\none network", ha="right", va="center", fontsize=7.5, color="0.25")
    axes.text(50, 2.5, "Whatever you take: measure it on test cases, each hospital apart.", ha="center", fontsize=8.5,
              style="italic")
    save(figure, "which_way.png")


def around(axes: Axes, starts: Sequence[tuple[Text, float]], x: float, end: tuple[Text, float]) -> None:
    """From boxes by a common line at `x` into another box from that side; `(box, y)`. Dashed: if it must be."""
    axes.figure.canvas.draw()

    def edge(text: Text) -> float:
        return axes.transData.inverted().transform(text.get_bbox_patch().get_window_extent())[1, 0]

    how = {"color": "0.35", "linewidth": 1.1, "linestyle": "--", "zorder": 2}
    for text, y in starts:
        axes.plot([edge(text), x], [y, y], **how)
    axes.plot([x, x], [max(y for _, y in starts), end[1]], **how)
    axes.add_patch(FancyArrowPatch((x, end[1]), (edge(end[0]), end[1]), arrowstyle="-|>", mutation_scale=11, shrinkA=0,
                                   shrinkB=2, **how))


def stitched_pair() -> None:
    """Both networks, joined at one position."""
    figure, axes = canvas(8, 3.5)
    image = box(axes, 6, 50, "image")
    rows = []
    for y, who, colour, letter in ((78, "A's network", HOST, "a"), (22, "B's network", PARTNER, "b")):
        first = box(axes, 25, y, f"{who}\nlayers up to the position", colour)
        mean = box(axes, 60, y, f"mean of {letter} and\nthe translated map", PLAIN)
        rest = box(axes, 80, y, "its layers after\nthe position", colour)
        arrow(axes, image, first)
        arrow(axes, first, mean, f"map {letter}", at=0.55)
        arrow(axes, mean, rest)
        rows.append((first, mean, rest))
    down, up = box(axes, 48, 61, "stitch A to B", RESULT, 8), box(axes, 48, 39, "stitch B to A", RESULT, 8)
    arrow(axes, rows[0][0], down)
    arrow(axes, down, rows[1][1])
    arrow(axes, rows[1][0], up)
    arrow(axes, up, rows[0][1])
    answer = box(axes, 93, 50, "mean of\nboth\nanswers")
    for _, _, rest in rows:
        arrow(axes, rest, answer)
    axes.text(50, 4, "Blue and orange: as they were trained. Green: 1x1 convolutions, fitted on A's images alone.",
              ha="center", fontsize=8, style="italic")
    save(figure, "stitched_pair.png")


def exchange() -> None:
    """What passes between the hospitals."""
    figure, axes = canvas(8, 2.9)
    model = box(axes, 11, 68, "B's model folder", PARTNER)
    images = box(axes, 11, 26, "B's images\n(stay at B)", PARTNER)
    export = box(axes, 33, 68, "nnUNetv2_export_party")
    package = box(axes, 55, 68, "B.zip:\nweights, plans,\nsignature, card", RESULT)
    checked = box(axes, 77, 68, "checked,\nnothing in it is run")
    used = box(axes, 77, 26, "adapt, stitch,\ngate, merge")
    own = box(axes, 55, 26, "A's images and model\n(stay at A)", HOST)
    result = box(axes, 94, 26, "one\nmodel", RESULT)
    arrow(axes, model, export)
    arrow(axes, images, export, "statistics", at=0.42, style="--")
    for start, end in ((export, package), (package, checked), (checked, used), (own, used), (used, result)):
        arrow(axes, start, end)
    axes.axvline(44, 0.08, 0.85, color="0.6", linewidth=0.8, linestyle=":")
    for x, who in ((22, "at B"), (72, "at A")):
        axes.text(x, 92, who, ha="center", fontsize=9.5, weight="bold")
    save(figure, "exchange.png")


def several_partners() -> None:
    """A star: the host is joined with each partner, and no partner with another."""
    figure, axes = canvas(6, 2.8)
    host = box(axes, 28, 50, "A's network, the host", HOST)
    answer = box(axes, 84, 50, "mean of\nall answers", RESULT)
    for y, who in ((84, "B"), (16, "C")):
        partner = box(axes, 28, y, f"{who}'s network, a partner", PARTNER)
        arrow(axes, partner, host, "stitches", at=0.45, style="--", ends="<|-|>")
        arrow(axes, partner, answer)
    arrow(axes, host, answer)
    save(figure, "several_partners.png")


def rounds() -> None:
    figure, axes = canvas(7.4, 3.1)
    start = box(axes, 9, 58, "a model\nall start from", RESULT)
    merge = box(axes, 73, 58, "nnUNetv2_merge_party\nat the centre", HOST)
    after = box(axes, 94, 58, "merged\nmodel", RESULT)
    for y, who in ((86, "A, the centre"), (58, "B"), (30, "C")):
        party = box(axes, 39, y, f"nnUNetv2_train_party\nat {who}", PARTNER if who in "BC" else HOST)
        arrow(axes, start, party)
        arrow(axes, party, merge)
    arrow(axes, merge, after)
    axes.annotate("", xy=(9, 48), xytext=(94, 48), zorder=1, arrowprops={
        "arrowstyle": "-|>", "color": "0.35", "linestyle": "--", "connectionstyle": "arc3,rad=-0.37"})
    axes.text(51, 16, "the next round", fontsize=8, color="0.25", ha="center")
    save(figure, "rounds.png")


def way_of_the_data() -> None:
    figure, axes = canvas(8, 7.4)
    a = box(axes, 16, 95, "model folder of A", HOST)
    b = box(axes, 66, 95, "model folder or zip of B", PARTNER)
    exchange = box(axes, 66, 86, "exchange")
    parties = box(axes, 38, 86, "parties")
    bridging = box(axes, 38, 77, "bridging")
    graph = box(axes, 38, 68, "graph")
    stitching = box(axes, 38, 59, "stitching")
    images = box(axes, 16, 48, "A's preprocessed\nimages", HOST)
    trainer = box(axes, 38, 48, "trainers:\nnnUNetTrainerStitch")
    fitting = box(axes, 61, 48, "fitting")
    selection = box(axes, 85, 48, "selection")
    gating = box(axes, 61, 36, "gating")
    model = box(axes, 85, 32, "stitched\nmodel folder", RESULT)
    new = box(axes, 16, 17, "new images", HOST)
    inference = box(axes, 38, 17, "inference")
    network = box(axes, 61, 17, "stitching:\nthe network")
    gate = box(axes, 61, 4, "gating: the gate")
    answer = box(axes, 85, 17, "segmentations", RESULT)
    measured = box(axes, 85, 4, "evaluation, figures")
    for start, end, label in ((a, parties, ""), (b, exchange, ""), (exchange, parties, ""), (parties, bridging, ""),
                              (bridging, graph, ""), (graph, stitching, ""), (stitching, trainer, "plans"),
                              (images, trainer, ""), (trainer, fitting, ""), (fitting, selection, "stitches"),
                              (selection, model, "setting, pruned"), (model, inference, ""), (new, inference, ""),
                              (inference, network, ""), (network, answer, ""), (answer, measured, "")):
        arrow(axes, start, end, label)
    for start, end, label in ((selection, gating, "with a gate"), (gating, model, "signatures"),
                              (gate, network, "shares of the image")):
        arrow(axes, start, end, label, style="--")
    axes.text(2, 66, "nnUNetv2_train_stitch", fontsize=9, weight="bold", rotation=90, va="center")
    axes.text(2, 12, "_predict_stitched", fontsize=9, weight="bold", rotation=90, va="center")
    axes.axhline(25, 0, 0.5, color="0.6", linewidth=0.8, linestyle=":")
    save(figure, "way_of_the_data.png")


if __name__ == "__main__":
    which_way()
    stitched_pair()
    exchange()
    several_partners()
    rounds()
    way_of_the_data()
