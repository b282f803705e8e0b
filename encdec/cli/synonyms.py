"""What people call an option elsewhere, and what it is called here."""

from collections.abc import Iterable

from encdec import plugins
from encdec.cli.settings import TAKEN
from encdec.messages import suggestion
from encdec.signatures import parameters

TABLE = {
    "trainer.max_epochs": ("epoch", "epochs", "n_epochs", "num_epochs", "nb_epochs", "num_train_epochs"),
    "trainer.max_steps": ("iterations", "iters", "n_iter", "n_iters", "num_iterations", "num_steps", "steps"),
    "trainer.devices": ("gpus", "n_gpu", "n_gpus", "ngpu", "ngpus", "num_gpus", "num_devices", "nproc_per_node"),
    "trainer.num_nodes": ("nodes", "n_nodes", "nnodes"),
    "trainer.accelerator gpu": ("cuda", "gpu", "use_cuda", "use_gpu"),
    "trainer.accelerator cpu": ("cpu", "no_cuda", "use_cpu"),
    "trainer.accelerator": ("device",),
    "trainer.precision bf16-mixed": ("amp", "bf16", "fp16", "half", "mixed_precision"),
    "trainer.gradient_clip_val": ("clip", "clip_grad", "clip_grad_norm", "grad_clip", "gradient_clip", "max_grad_norm"),
    "trainer.accumulate_grad_batches": ("accumulate", "accumulation_steps", "gradient_accumulation_steps"),
    "trainer.check_val_every_n_epoch": ("eval_every", "val_every", "validate_every"),
    "trainer.log_every_n_steps": ("log_every", "log_interval"),
    "trainer.default_root_dir": (
        "log_dir", "logdir", "logs", "out", "out_dir", "outdir", "output", "output_dir", "results", "save_dir"),
    "trainer.fast_dev_run true": ("debug", "dry_run", "smoke_test"),
    "trainer.limit_train_batches": ("subset", "train_fraction"),
    "trainer.callbacks": ("callback",),
    "trainer.logger": ("loggers", "wandb"),
    "trainer.enable_progress_bar false": ("no_progress", "quiet", "silent"),
    "seed_everything": ("manual_seed", "random_seed", "random_state", "rng_seed", "seed"),
    "name": ("exp_name", "experiment", "experiment_name", "run_name", "tag"),
    "ckpt_path": ("checkpoint", "checkpoint_path", "ckpt", "load", "model_path"),
    "weights": ("init_from", "init_weights", "load_weights", "pretrained", "pretrained_weights"),
    "resume": ("continue", "resume_from", "resume_from_checkpoint"),
    "config": ("cfg", "conf", "config_file", "config_path"),
    "print_config": ("show_config",),
    "model": ("algorithm", "arch", "architecture", "method", "model_name", "model_type", "network", "paradigm"),
    "model.latent_dim": (
        "bottleneck", "code_dim", "code_size", "dim_z", "embedding_dim", "hidden_dim", "latent", "latent_size",
        "latents_dim", "n_latent", "num_latents", "nz", "z", "z_dim", "z_size", "zdim"),
    "model.beta": ("kl_coeff", "kl_weight", "kld_weight"),
    "model.optimizer": ("optim", "opt"),
    "model.optimizer.lr": ("base_lr", "learning_rate", "learningrate", "lr", "rate"),
    "model.optimizer.weight_decay": ("wd", "weight_decay"),
    "model.lr_scheduler": ("lr_schedule", "schedule", "scheduler"),
    "model.decoder.hidden": ("hidden", "hidden_dims", "hidden_size", "hidden_sizes", "layers", "units"),
    "model.decoder.channels": ("channels", "filters", "num_filters"),
    "model.observation": ("likelihood", "loss", "loss_fn", "recon_loss"),
    "data": ("data_name", "data_set", "dataset", "dataset_name", "datamodule", "datasets"),
    "data.batch_size": ("batch", "batchsize", "bs", "train_batch_size"),
    "data.data_dir": ("data_path", "data_root", "dataroot", "dataset_dir", "dataset_path", "root"),
    "data.path": ("folder", "image_dir", "images_dir", "img_dir"),
    "data.size": ("image_size", "img_size", "input_size", "resolution"),
    "data.num_workers": ("n_workers", "nworkers", "workers"),
    "data.val_fraction": ("val_ratio", "val_size", "val_split", "validation_split"),
    "evaluation.num_samples": ("n_samples",),
}  # fmt: skip
"""Other names by the option that they mean, with a value where the name says one."""


def meant(name: str, known: Iterable[str], prefix: str = "--") -> str:
    """`; did you mean --…?` for an option that there is none of, or nothing.

    A synonym comes first, then an option whose last part it is, then the most similar one.

    Args:
        name: without its dashes; `trainer.epochs` and `model.lr` are looked up as `epochs` and `lr`, too.
        known: the options that the parser knows; none where that is not known.
        prefix: what stands before an option.
    """
    known = list(known)
    options = [*known, *_settings()]
    last = name.rpartition(".")[2].replace("-", "_").lower()
    found = _synonym(last, known) or next((key for key in options if key.rpartition(".")[2] == last), None)
    if found is not None and found != name:
        return f"; did you mean {prefix}{found}?"
    by_last = {key.rpartition(".")[2]: key for key in reversed(options)}
    return suggestion(name, options, prefix) or suggestion(name, by_last, prefix)


def exact(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?` for a name in the table alone, or nothing; for the arguments see `meant`."""
    found = _synonym(name.replace("-", "_").lower(), list(known))
    return f"; did you mean {found}?" if found is not None else ""


def _synonym(name: str, known: list[str]) -> str | None:
    for option, names in TABLE.items():
        key = option.partition(" ")[0]
        if name in names and (not known or key in known or ("." in key and key.partition(".")[0] in ("model", "data"))):
            return option
    return None


def _settings() -> list[str]:
    """The settings of every paradigm and data set that a user may set; those that most of them have come first."""
    counts: dict[str, int] = {}
    for key, taken in TAKEN.items():
        for cls in plugins.subclasses(plugins.KINDS[key]):
            for name in parameters(cls).keys() - taken.keys():
                counts[f"{key}.{name}"] = counts.get(f"{key}.{name}", 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))
