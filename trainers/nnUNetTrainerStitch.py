"""Double-batched training of stitches inside nnU-Net's own training loop."""

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerStitch(nnUNetTrainer):
    """Trains the stitches between two frozen parents; both are named by the plans that nnUNetv2_train_stitch writes.

    Starts from the closed-form solution of direct matching, then trains all stitches together, double-batched. At
    the end sweeps all positions on the fold's validation cases, deploys the position that the plans name or else the
    fold's best, and leaves an ordinary nnU-Net model folder.
    """

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict,
                 device: torch.device = torch.device("cuda")):
        import warnings
        with warnings.catch_warnings():  # of the gradient scaler that a process group gets without CUDA as well
            warnings.filterwarnings("ignore", "torch.cuda.amp.GradScaler is enabled")
            super().__init__(plans, configuration, fold, dataset_json, device)
        from nnunetv2_stitch.fitting.session import StitchSession
        from nnunetv2_stitch.nnunet_internals import do_not_compile
        do_not_compile(self)  # the switches change in every step, which would recompile in every step
        self.build_network_architecture = self.build_supernet
        self.enable_deep_supervision = False
        self.num_epochs = 50
        self.num_val_iterations_per_epoch = 10
        self.initial_lr = 3e-3
        self.save_every = 10
        self.disable_progress_bar = False
        self.checkpoint_segments: int | str = 1  # pieces that are recomputed in the backward pass, or "auto"
        self.positions_per_pass: int | None = None  # stitches at this many positions in a step, which take turns
        self.half_targets = False  # bfloat16 for what the backward pass keeps of the reference stream
        self.session = StitchSession(self)
        if self.is_ddp:
            self.session.place(device)

    @staticmethod
    def build_network_architecture(plans_manager, configuration_manager, num_input_channels: int,
                                   num_output_channels: int, enable_deep_supervision: bool = True):
        """Of the class only stock prediction asks for it, with a checkpoint that names this trainer: one in training,
        all of whose stitches are active. A deployed one names nnUNetTrainer. Raises StitchError."""
        from nnunetv2_stitch.errors import StitchError
        raise StitchError("this checkpoint is of a training that has not ended: no position is chosen and deployed "
                          "yet; run the same nnUNetv2_train_stitch command with --c first")

    @staticmethod
    def build_supernet(plans_manager, configuration_manager, num_input_channels: int, num_output_channels: int,
                       enable_deep_supervision: bool = False):
        """What this trainer trains, as nnU-Net asks a trainer for its network."""
        from nnunetv2_stitch.stitching.plans import supernet_from_plans
        return supernet_from_plans(configuration_manager.configuration, num_input_channels, num_output_channels)

    @property
    def stitched(self):
        """The supernet without nnU-Net's wrappers."""
        wrapped = isinstance(self.network, torch.nn.parallel.DistributedDataParallel)
        return self.network.module if wrapped else self.network

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """A stitched ensemble has one output."""

    def initialize(self) -> None:
        distributed, self.is_ddp = self.is_ddp, False  # nnU-Net would wrap the network for the GPU of this rank
        super().initialize()
        self.is_ddp = distributed
        if distributed:
            self.session.distribute()
        self.session.load_parents()

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        """As nnU-Net's, mirroring only where both parents were mirrored in their training."""
        *others, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        both = tuple(a for a in axes or () if a in (self.session.mirroring_axes or ())) or None
        self.inference_allowed_mirroring_axes = both
        return (*others, both)

    def configure_optimizers(self):
        from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
        parameters = self.network.stitch_parameters()
        optimizer = torch.optim.AdamW(parameters, self.initial_lr, weight_decay=0)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def on_train_start(self) -> None:
        from nnunetv2_stitch.nnunet_internals import once_files_are_written
        self.session.seed()
        self.session.keep_aside()
        with once_files_are_written(self, self.session.put_in_place):
            super().on_train_start()
        self.session.plot_matches()
        if self.current_epoch == 0:
            self.initialise_stitches()

    def initialise_stitches(self) -> None:
        self.session.direct_matching()

    def batch_loss(self, data: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.network(data, objective=self.session.objective)

    def loss_of(self, batch: dict) -> torch.Tensor:
        from nnunetv2_stitch.nnunet_internals import mixed_precision, on_device
        data, target = (on_device(batch[key], self.device) for key in ("data", "target"))
        with mixed_precision(self.device):
            return self.batch_loss(data, target)

    def train_step(self, batch: dict) -> dict:
        self.session.set_switches()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_of(batch)
        self.session.optimise(loss)
        return {"loss": loss.detach().cpu().numpy()}

    def validation_step(self, batch: dict) -> dict:
        """Pseudo Dice with every stitch active, the hardest setting; the loss is the one that is trained."""
        self.session.all_switches()
        loss = self.loss_of(batch)
        return {**super().validation_step(batch), "loss": loss.detach().cpu().numpy()}

    def on_train_end(self) -> None:
        super().on_train_end()
        from nnunetv2_stitch.selection.fold import finish_fold
        finish_fold(self)

    def save_checkpoint(self, filename: str) -> None:
        self.session.save_checkpoint(filename, super().save_checkpoint)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        self.session.load_checkpoint(filename_or_checkpoint, super().load_checkpoint)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        self.stitched.apply_setting(self.session.setting)
        wrapped, self.network = self.network, self.stitched  # processes have different numbers of tiles
        super().perform_actual_validation(save_probabilities)
        self.network = wrapped

