"""What a paradigm must not override, because resuming, logging and speed rest on it."""

from encdec.types import UserError

FINAL = {"configure_optimizers", "configure_callbacks", "training_step", "validation_step", "test_step", "backward",
          "predict_step", "optimizer_step", "optimizer_zero_grad", "sample", "noise", "shared_noise"}  # fmt: skip
"""Methods of Lightning and of `Paradigm`."""


def refuse_overrides(cls: type) -> None:
    """Check a class of paradigms when it is defined.

    Raises:
        UserError: it overrides something that is final.
    """
    owners = {name: next(base for base in cls.__mro__ if name in vars(base)) for name in FINAL}
    ours = ("encdec.paradigms.base", "encdec.paradigms.use", "lightning.", "torch.")
    if overridden := sorted(name for name, owner in owners.items() if not owner.__module__.startswith(ours)):
        raise UserError(
            f"{cls.__name__} overrides {', '.join(overridden)}, which belongs to encdec: write `losses`, and `players` "
            "where there are several objectives or learning rates (see plugins/README.md)."
        )
