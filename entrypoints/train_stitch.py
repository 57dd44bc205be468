"""nnUNetv2_train_stitch: stitch two trained nnU-Nets into one."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from nnunetv2_stitch.distributed import SINGLE_PROCESS, Process
from nnunetv2_stitch.entrypoints.common import (
    EXIT_INTERRUPTED,
    add_common,
    add_continue,
    add_old,
    groups,
    not_negative,
    positive_int,
    print_commands,
    ready_device,
    resolve_device,
    run,
    say_step,
)
from nnunetv2_stitch.entrypoints.parties import (
    add_parties,
    parse_parties,
    parties_of,
    party_or,
    position,
    positions,
)
from nnunetv2_stitch.entrypoints.processes import one_of_several, only_first_speaks
from nnunetv2_stitch.entrypoints.training_run import print_needs, unpacking

if TYPE_CHECKING:
    import torch


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_train_stitch",
        description="Stitch trained nnU-Nets into one. DATASET_A is the host: its images, plans and folds are used. "
                    "DATASET_B is the partner: only its trained model is needed. There may be more partners; each is "
                    "stitched to the host. The result is an ordinary nnU-Net model of DATASET_A.")
    parties, fitting, choosing, memory, running = groups(parser, "parties", "fitting", "choosing", "memory", "running")
    add_parties(parties)
    add = fitting.add_argument
    add("-fit", choices=("double_batched", "direct", "task"), default="double_batched",
        help="how the stitches are fitted. direct: closed form, one pass. task: by the segmentation loss, a "
             "comparator. Default: %(default)s")
    add("-positions", type=positions, default="all", metavar="all|blocks|LIST",
        help="which layers get stitches: all, one per convolution block, or e.g. 3,7,20-25. Default: %(default)s")
    add("-epochs", type=positive_int, metavar="N", help="epochs. Direct fitting always takes one. Default: 50")
    add("-iterations", type=positive_int, metavar="N", help="iterations per epoch. Default: nnU-Net's, 250")
    add("-seed", type=int, help="seed, recorded in the plans. Default: 12345")
    add = choosing.add_argument
    add("-rule", choices=("1", "2", "3", "loo", "retain", "guided"), help="how the position is chosen. 1: each fold's "
        "best. 2: the lowest mean rank over folds. 3: by -position. loo: the lowest mean rank over the other folds. "
        "retain: the first that A's validation cases cannot tell from the best, nor from A alone. guided: no "
        "position; mixing weights of all switches, of any sign, are searched on A's images. Default: 3 with -position, "
        "retain with -gate on, else 2")
    add("-tolerance", type=not_negative, metavar="T", help="with -rule retain: how much worse than the best a position "
        "may be, in standard errors over cases. Default: 1")
    steps = add("-search_steps", type=positive_int, default=100, metavar="N", help="with -rule guided: steps of the "
                "search, a batch each. Default: %(default)s")
    add_old(choosing, "-guided_steps", steps)
    add("-position", type=position, nargs="+", metavar="K", help="position by index (44), one for each partner, or by "
        "progress in the host (0.65)")
    add("-output", type=party_or("ensemble"), default="ensemble", metavar="ensemble|host|partner",
        help="whose head answers; ensemble means all. Further partners are partner2 and so on. Default: %(default)s")
    add("-combine", choices=("probabilities", "logits"), default="probabilities",
        help="what an ensemble of the heads averages. Default: %(default)s")
    add("-gate", choices=("off", "on"), default="off", help="on: each image gets its own shares of the parties. An "
        "image like A's goes to A alone; an image unlike any party's gets even shares. Default: %(default)s")
    add("--select", action="store_true", help="train nothing. Choose the position again for all trained folds, by "
        "-rule or -position, or with -sweeps")
    add("-sweeps", nargs="+", metavar="FILE.json", help="with --select: what partners measured on their own cases with "
        "nnUNetv2_sweep_stitched. The position is chosen on the Pareto front of all parties")
    add("-prefer", choices=("own", "balanced", "partner"), help="with -sweeps: which position on the front. own: the "
        "best on A's cases. partner: the best on the partner's. balanced: the one whose smallest gain over the plain "
        "ensemble, of all parties, is largest. Default: balanced")
    add = memory.add_argument
    add("-checkpoint_segments", type=segments, default=1, metavar="auto|N", help="recompute the networks in pieces "
        "during the backward pass. That takes far less memory, and one more forward pass. auto: the pieces with the "
        "lowest peak. N: N pieces of equal length. Default: %(default)s, off")
    add("-positions_per_pass", type=positive_int, metavar="N", help="train the stitches at N positions in a step, "
        "spread over the network and taking turns. A step takes less memory and time, and a stitch gets fewer steps. "
        "Default: all")
    add("--half_targets", action="store_true", help="keep the targets of the reference stream in bfloat16. Saves "
        "memory where training is in float32, as on the CPU")
    add = running.add_argument
    add("-o_p", default="nnUNetStitchPlans", metavar="PLANS_NAME", help="name of the plans that are written. "
        "Default: %(default)s")
    add("-num_gpus", type=positive_int, default=1, metavar="N", help="number of GPUs of this machine (DDP). For "
        "several machines, or processes on the CPU, start the command with torchrun instead. Default: %(default)s")
    add("--npz", action="store_true", help="save probabilities of the validation, for nnUNetv2_find_best_configuration")
    add_continue(running, ". Without -epochs, -iterations, -positions_per_pass or -seed the model goes on as it was "
                          "begun")
    add("--val", action="store_true", help="only repeat the validation of trained folds")
    add("--dry_run", action="store_true", help="print the matches, parameters and memory; write nothing")
    add_common(running, trust=True)
    return parser


def segments(text: str) -> int | str:
    return text if text == "auto" else positive_int(text)


def train_stitch_entry() -> None:
    with one_of_several() as process:
        with only_first_speaks(process):
            args = parse_parties(build_parser())
            run(lambda: require_consistent(args), verbose=args.verbose, several=True)
        run(lambda: main(args, process), verbose=args.verbose, resume="--c", several=True, trust=args.trust,
            speaks=process.is_first)


def request_of(args: argparse.Namespace) -> dict:
    """The command's arguments as fields of `pipeline.Request`."""
    asked = args.position
    if asked is not None:
        asked = asked[0] if len(asked) == 1 else asked
    return dict(
        **parties_of(args), configuration=args.configuration, folds=args.f, trainer_a=args.tr_a, plans_a=args.p_a,
        checkpoint_name=args.chk, fit=args.fit, positions=args.positions,
        rule=args.rule, position=asked,
        **({} if args.tolerance is None else {"tolerance": args.tolerance}),
        search_steps=args.search_steps, output=args.output,
        combine=args.combine, gate=args.gate == "on", epochs=args.epochs, iterations=args.iterations,
        checkpoint_segments=args.checkpoint_segments, positions_per_pass=args.positions_per_pass,
        half_targets=args.half_targets, plans_name=args.o_p, seed=args.seed)


def require_consistent(args: argparse.Namespace) -> None:
    """Raises StitchError for switches that exclude each other."""
    from nnunetv2_stitch.errors import StitchError
    from nnunetv2_stitch.pipeline.job import default_rule
    if args.continue_training and args.val:
        raise StitchError("--c and --val exclude each other: --c goes on and validates, --val only validates")
    if args.select:
        other = next((name for name, given in (("--c", args.continue_training), ("--val", args.val),
                                               ("--dry_run", args.dry_run)) if given), None)
        if other:
            raise StitchError(f"--select and {other} exclude each other: --select only chooses among what is trained, "
                              f"deploys it and validates")
    elif args.sweeps or args.prefer:
        raise StitchError(f"{'-sweeps' if args.sweeps else '-prefer'} needs --select, for a model that is trained")
    if args.tolerance is not None and (args.rule or default_rule(args.position, args.gate == "on")) != "retain":
        raise StitchError("-tolerance is for -rule retain; add it, or leave -tolerance out")
    if args.prefer and not args.sweeps:
        raise StitchError("-prefer chooses with the numbers of partners: give their files with -sweeps FILE ...")
    if args.sweeps and (args.rule or args.position is not None):
        raise StitchError("-sweeps chooses on the Pareto front by -prefer; leave out -rule and -position, or -sweeps")


def main(args: argparse.Namespace, process: Process = SINGLE_PROCESS) -> None:
    require_consistent(args)
    if args.dry_run:
        if not process.is_first:
            return
        from nnunetv2_stitch.pipeline import Request, prepare
        with unpacking() as folder:
            job = prepare(Request(**request_of(args)), dry_run=True, unpack_into=folder)
            print_job(job)
            check_run(job, args)
        print("\nNothing was written (--dry_run).")
        return
    device = ready_device(args, process.local_world_size)
    if process == SINGLE_PROCESS:
        train(args, device)
        return
    from nnunetv2_stitch.distributed import process_group
    from nnunetv2_stitch.pipeline.fold_run import follow, leading
    with process_group(process, device):
        if process.is_first:
            with leading():
                train(args, device)
        else:
            try:
                follow(device)
            except KeyboardInterrupt:
                sys.exit(EXIT_INTERRUPTED)  # the first one says so


def train(args: argparse.Namespace, device: torch.device) -> None:
    from nnunetv2_stitch.pipeline import train_stitch
    result = train_stitch(
        device=device, num_gpus=args.num_gpus, continue_training=args.continue_training,
        only_validation=args.val, only_selection=args.select, sweeps=args.sweeps or (),
        prefer=args.prefer or "balanced", save_probabilities=args.npz, progress=not args.disable_progress_bar,
        say=say_step, **request_of(args))
    print_result(result)


def print_job(job) -> None:
    from nnunetv2_stitch.entrypoints.stitch_info import print_report
    own = [{f: f for f in job.folds}, *job.partner_folds]
    for name, party, folds in zip(job.parameters, (job.host, *job.partners), own):
        listed = ", ".join(str(folds[f]) for f in job.folds)
        print(f"{name:<8} {party.dataset_name} {party.identifier}, folds {listed}: {job.parameters[name]:,} parameters")
    print(f"stitches {2 * len(job.positions)} at {len(job.positions)} positions: {job.stitch_parameters:,} parameters")
    for party, report in zip(job.partners, job.reports):
        print(f"\n{party.dataset_name}\n" if len(job.partners) > 1 else "")
        print_report(report)
    print()
    print_memory(job.memory)
    print(f"{'position':>8}  {'progress':>8}  {'channels':>11}  layer (host / partner where they differ)")
    progress = job.layout.progress()
    for p in job.positions:
        match = job.layout.matches[p]
        channels = f"{match.host_channels} / {match.partner_channels}"
        print(f"{p:>8}  {progress[p]:>8.2f}  {channels:>11}  {job.layout.position_name(p)}")


def check_run(job, args: argparse.Namespace) -> None:
    """What else a run would look for here. Raises StitchError for what it would stop on; where nothing can be written
    that is only said, because a dry run is of use there too."""
    from nnunetv2_stitch.pipeline.continuing import (
        check_what_is_there,
        closed_folder,
        foreground_remarks,
        previous_plans,
        require_same_data,
    )
    from nnunetv2_stitch.pipeline.fold_run import require_processes
    previous = previous_plans(job.plans_file)
    check_what_is_there(job, previous, args.continue_training or args.val)
    if not args.val:
        require_same_data(job, previous)
        for remark in [*job.label_remarks, *foreground_remarks(job)]:
            print(f"\n{remark}")
    require_processes(job.host.configuration_manager.batch_size, resolve_device(args.device), args.num_gpus)
    if closed := closed_folder(job):
        print(f"\nA run would stop here: no permission to write into {closed}.")


def print_memory(memory) -> None:
    """What is needed as asked for, and what with the flags that need less."""
    rows = {"training, as asked for": memory.training,
            **{f"training, {flags}": need for flags, need in memory.options.items()},
            "prediction": memory.prediction, "prediction, the larger parent alone": memory.parent}
    print_needs(rows)
    each, count, room = memory.sweep.each / 2**30, memory.sweep.answers, memory.sweep.room
    at_once = min(count, max(1, room // memory.sweep.each))
    print(f"sweep of a case of median size: {each * at_once:.2f} GiB of main memory for {at_once} of {count} answers "
          f"at once ({each:.3f} GiB each; {room / 2**30:.1f} GiB may be taken now)\n")


def print_choice(choice) -> None:
    """The Pareto front over positions, with what each party has without stitches."""
    from nnunetv2_stitch.evaluation.tables import text_table
    front = choice.front
    without = [{"position": name, **{p.party: getattr(p, key) for p in front.parties}} for name, key in
               (("host alone", "host"), ("partner alone", "partner"), ("plain ensemble", "ensemble"))]
    rows = [{**row, "position": f"{row['position']}{' <-' if row['position'] == choice.position else ''}"}
            for row in front.rows()]
    print(f"\nPareto front, {sum(front.on_front)} of {len(front.positions)} positions: mean Dice over folds on each "
          f"party's cases. Chosen (<-) by -prefer {choice.preference}.\n")
    print(text_table([*rows, *without]))


def print_result(result) -> None:
    from nnunetv2_stitch.evaluation.tables import text_table
    from nnunetv2_stitch.guiding.fold import GUIDED_FILE
    print("\nMean Dice on A's validation cases, on the preprocessed grid without mirroring:\n")
    print(text_table(result.table))
    for choice in result.choices:
        print_choice(choice)
    print()
    if result.weighted:
        print(f"Mixing weights at {len(result.positions[result.folds[0]])} positions, in {GUIDED_FILE} of each fold")
    elif len(set(result.positions.values())) == 1:
        for position, name in zip(result.positions[result.folds[0]], result.position_names):
            print(f"Chosen position: {position}, {name}")
    else:
        print("Chosen positions: " + ", ".join(f"fold {f}: {', '.join(map(str, p))}"
                                               for f, p in result.positions.items()))
    for remark in result.remarks:
        print(remark)
    print("Figures: " + ", ".join(result.figures))
    print_commands(result.commands[:2])
