"""Ways to use another hospital's model, compared in minutes: each network looks once at every image as a whole, and
what mixes their answers is tried on the probabilities.

    python benchmarks/polyps/ways.py WORK -host A -partner B -seed 1

WORK as `parents.py` leaves it; rows of models that are not there are left out. In the table A is the host and B the
partner. Gate and retention are the package's own; no stitches, no tiles, no mirroring (`study.py` has these, and takes
an hour). Writes `ways.json` and `ways.md`; probabilities are kept in WORK.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from measures import as_lists, dice_of, markdown, summary
from parents import FOLD, HOSPITALS, TRAININGS, checkpoint, dataset_of, model_folder
from torch.nn import functional as F

ALPHAS = (0.0, 0.25, 0.5, 1.0)
HALFWAY = 0.5  # under a gate
SHARES = tuple(round(0.05 * i, 2) for i in range(21))


class Images:
    """Images `(C, y, x)`, as nnU-Net normalises them, and their masks: validation cases of both parties, test cases of
    all hospitals."""

    def __init__(self, work: Path, host: str, partner: str):
        from nnunetv2_stitch.fileio import read_json
        splits = {p: read_json(str(work / "preprocessed" / dataset_of(p) / "splits_final.json"))[FOLD]
                  for p in (host, partner)}
        self.of = {"validation": f"{host} validation", "partner's validation": f"{partner} validation"}
        self.sets = {"validation": self.read(work, host, "Tr", splits[host]["val"]),
                     "partner's validation": self.read(work, partner, "Tr", splits[partner]["val"])}
        names = {"own": host, "partner": partner, **{f"unseen {h}": h for h in HOSPITALS if h not in (host, partner)}}
        for name, hospital in names.items():
            cases = sorted(f.stem for f in (work / "raw" / dataset_of(hospital) / "labelsTs").glob("*.png"))
            self.sets[name], self.of[name] = self.read(work, hospital, "Ts", cases), f"{hospital} test"
        self.training = {p: [x for x, _ in self.read(work, p, "Tr", splits[p]["train"])] for p in (host, partner)}
        self.tests = tuple(names)

    @staticmethod
    def read(work: Path, hospital: str, part: str, cases: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        from skimage import io
        folder, found = work / "raw" / dataset_of(hospital), []
        for case in cases:
            x = io.imread(folder / f"images{part}" / f"{case}_0000.png").astype(np.float32).transpose(2, 0, 1)
            x = (x - x.mean((1, 2), keepdims=True)) / np.maximum(x.std((1, 2), keepdims=True), 1e-8)
            found.append((x, io.imread(folder / f"labels{part}" / f"{case}.png") > 0))
        return found


def padded(image: np.ndarray) -> tuple[torch.Tensor, tuple[slice, slice]]:
    """The image in the middle of one whose sides are multiples of 16, at least 128; and where it lies there."""
    sides = [max(128, -(-n // 16) * 16) for n in image.shape[1:]]
    before = [(s - n) // 2 for s, n in zip(sides, image.shape[1:])]
    x = F.pad(torch.from_numpy(image)[None], (before[1], sides[1] - image.shape[2] - before[1],
                                              before[0], sides[0] - image.shape[1] - before[0]))
    return x, tuple(slice(b, b + n) for b, n in zip(before, image.shape[1:]))


class Ways:
    """Probabilities of a polyp by network and set of images, and what is made of them."""

    def __init__(self, work: Path, host: str, partner: str, seed: int):
        self.work, self.host, self.partner, self.seed = work, host, partner, seed
        self.images = Images(work, host, partner)
        self.folder = work / f"ways_{host}{partner}_{seed}"
        self.kept = work / f"answers_{seed}"
        for folder in (self.folder, self.kept):
            folder.mkdir(exist_ok=True)
        self.notes: dict[str, str] = {}

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        from nnunetv2_stitch.parties.checkpoint import load_checkpoint, network_weights
        return network_weights(load_checkpoint(str(checkpoint(self.work, self.seed, name))))

    def network(self, name: str, alpha: float | None = None) -> torch.nn.Module:
        """A trained network; with `alpha` a point between the partner's and the same trained on."""
        from nnunetv2_stitch.parties.checkpoint import load_weights
        from nnunetv2_stitch.parties.model_folder import read_model_folder
        from nnunetv2_stitch.stitching.description import build_parent
        from nnunetv2_stitch.training.line import between
        model = read_model_folder(str(model_folder(self.work, self.seed, name)))
        network = build_parent(model.network_spec, model.num_input_channels, model.num_outputs).eval()
        weights = self.weights(name)
        load_weights(network, weights if alpha is None else between(self.weights(self.partner), weights, alpha), name)
        return network

    @torch.inference_mode()
    def answers(self, name: str, alpha: float | None = None) -> dict[str, list[np.ndarray]]:
        """Kept by hospital, so that every host and partner of this seed find them."""
        if alpha == 0:
            return self.answers(self.partner)
        network, found = None, {}
        for key, cases in self.images.sets.items():
            path = self.kept / f"{name}{'' if alpha is None else f' alpha {alpha:g}'}, {self.images.of[key]}.pt"
            if not path.is_file():
                network = network or self.network(name, alpha)
                maps = []
                for image, _ in cases:
                    x, where = padded(image)
                    maps.append(network(x).softmax(1)[0, 1][where].half().numpy())
                torch.save(maps, path)
            found[key] = [m.astype(np.float32) for m in torch.load(path, weights_only=False)]
        return found

    def dice(self, answers: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
        """Of every case; NaN where neither side has a polyp."""
        return {key: np.array([dice_of(p > 0.5, mask) for p, (_, mask) in zip(maps, self.images.sets[key])])
                for key, maps in answers.items()}

    def mixed(self, one, other, shares: dict[str, np.ndarray] | float) -> dict[str, list[np.ndarray]]:
        """`share * one + (1 - share) * other`, by case or for all."""
        return {k: [s * a + (1 - s) * b for s, a, b in zip(
            shares[k] if isinstance(shares, dict) else [shares] * len(one[k]), one[k], other[k])] for k in one}

    def shared(self, parties, shares: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
        """Each party's answers by its shares `(cases, parties)`."""
        return {k: [sum(s * p for s, p in zip(row, maps))
                    for row, maps in zip(shares[k], zip(*(party[k] for party in parties)))] for k in parties[0]}

    @torch.inference_mode()
    def gates(self) -> tuple[list[tuple[str, dict[str, np.ndarray]]], list[tuple[str, dict[str, np.ndarray]]]]:
        """The shares of every case under the gates of the package's path: the host's beside one partner; and of host,
        adapted partner and partner, where the adapted one alone has claims, as in the package. Signatures are of whole
        images, under the partner's network, whose first convolution is the adapted one's."""
        from nnunetv2_stitch.gating.features import probe
        from nnunetv2_stitch.gating.gate import Gate, GateOptions
        from nnunetv2_stitch.gating.signature import Signature
        from nnunetv2_stitch.graph.tracing import trace
        from nnunetv2_stitch.pipeline.gating import PATH
        part, count = probe(trace(self.network(self.partner)), 3)

        def features(images):
            return np.concatenate([part(padded(x)[0]).double().numpy() for x in images])

        own, theirs = (Signature.of(features(self.images.training[p]), features([x for x, _ in self.images.sets[v]]))
                       for p, v in ((self.host, "validation"), (self.partner, "partner's validation")))
        of = {k: torch.from_numpy(features([x for x, _ in cases])) for k, cases in self.images.sets.items()}
        two, three = [], []
        for quantile, lead in PATH:
            for known, found in (((True,), two), ((True, False), three)):
                gate = Gate(GateOptions(known, quantile, lead=lead), [count] * len(known))
                gate.set([own] * len(known), [theirs, None][:len(known)], quantile)
                shares = {k: gate([f] * len(known)).numpy() for k, f in of.items()}
                found.append((f"{quantile:.0%}, lead {lead:.0%}", shares))
        return [(name, {k: s[:, 0] for k, s in shares.items()}) for name, shares in two], three

    def chosen(self, what: str, points: list[tuple[str, dict]], host_at_end: bool = True) -> dict[str, np.ndarray]:
        """Dice of the point that retention takes on the host's validation cases."""
        from nnunetv2_stitch.selection.retention import retained
        dice = [self.dice(answers) for _, answers in points]
        alone = self.dice(self.answers(self.host))["validation"]
        found = retained(np.stack([d["validation"] for d in dice]), alone, host_at_end=host_at_end)
        self.notes[what] = f"{points[found.index][0]}: {found.reason}"
        return dice[found.index]

    def rows(self) -> dict[str, dict[str, np.ndarray]]:
        from nnunetv2_stitch.selection.retention import is_as_good
        h, p = self.host, self.partner
        a, b = self.answers(h), self.answers(p)
        gates, of_three = self.gates()
        longer = {"A longer": self.dice(self.answers(f"{h}_longer"))} \
            if f"{h}_longer" in TRAININGS and checkpoint(self.work, self.seed, f"{h}_longer").is_file() else {}
        rows = {"A alone": self.dice(a), **longer, "B alone": self.dice(b),
                "plain ensemble": self.dice(self.mixed(a, b, 0.5)),
                "weighted, retained": self.chosen("weighted, retained", [
                    (f"A's share {s:g}", self.mixed(a, b, s)) for s in SHARES]),
                "gate, A and B": self.chosen("gate, A and B", [(n, self.mixed(a, b, s)) for n, s in gates])}
        if checkpoint(self.work, self.seed, f"{p}_on_{h}").is_file():
            line = [(alpha, self.answers(f"{p}_on_{h}", alpha)) for alpha in ALPHAS]
            rows["adapted, retained"] = self.chosen("adapted, retained", [(f"alpha {x:g}", y) for x, y in line], False)
            for alpha, answers in line[1:]:
                rows[f"adapted, alpha {alpha:g}"] = self.dice(answers)
                name = f"gate, A and adapted, alpha {alpha:g}"
                rows[name] = self.chosen(name, [(n, self.mixed(a, answers, s)) for n, s in gates])
            gated = f"gate, A and adapted, alpha {HALFWAY:g}"
            both = f"gate, A, B and adapted, alpha {HALFWAY:g}"
            rows[both] = self.chosen(both, [(n, self.shared((a, dict(line)[HALFWAY], b), s)) for n, s in of_three])
            two_hosts = f"gate, A with adapted, alpha 1, and adapted, alpha {HALFWAY:g}"
            own = self.mixed(a, dict(line)[1.0], 0.5)
            rows[two_hosts] = self.chosen(two_hosts, [(n, self.mixed(own, dict(line)[HALFWAY], s)) for n, s in gates])
            if longer:
                rows[f"{gated}, A longer"] = self.chosen(f"{gated}, A longer", [
                    (n, self.mixed(self.answers(f"{h}_longer"), dict(line)[HALFWAY], s)) for n, s in gates])
            half_way = self.dice(dict(line)[HALFWAY])["validation"]
            alone = is_as_good(half_way, self.dice(a)["validation"])
            self.notes["recommended"] = "adapted, half-way" if alone else gated
            rows["recommended"] = rows[f"adapted, alpha {HALFWAY:g}" if alone else gated]
        pooled = h + p if h + p in ("AB", "CA") else p + h
        if pooled in TRAININGS and checkpoint(self.work, self.seed, pooled).is_file():
            rows["pooled data"] = self.dice(self.answers(pooled))
        self.notes["A's mean share under the gate of A and B"] = ", ".join(
            f"{k} {s.mean():.2f}" for k, s in dict(gates)[self.notes["gate, A and B"].split(":")[0]].items())
        return {name: {k: v for k, v in dice.items() if k in self.images.tests} for name, dice in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("-host", default="A", choices=tuple("ABCE"))
    parser.add_argument("-partner", default="B", choices=tuple("ABCE"))
    parser.add_argument("-seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    from nnunetv2_stitch.fileio import write_json
    ways = Ways(args.work.resolve(), args.host, args.partner, args.seed)
    rows = ways.rows()
    found = summary(rows)
    write_json(str(ways.folder / "ways.json"), {"dice": found, "notes": ways.notes, "cases": as_lists(rows)})
    text = markdown(found, ways.notes)
    (ways.folder / "ways.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
