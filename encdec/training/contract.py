"""What a paradigm must be before it is trained, said in sentences that name what is wrong."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from encdec.data import DataModule
from encdec.data.loader import Loader
from encdec.types import Conditioning, UserError

if TYPE_CHECKING:
    from encdec.paradigms import Paradigm


def check_paradigm(paradigm: "Paradigm") -> None:
    """Check what a paradigm says of itself: conditioning, noise, players and their parameters, the ex-post density.

    Raises:
        UserError: something is missing or of another kind.
    """
    name = type(paradigm).__name__
    for suffix, found in {"": paradigm.conditioning, **paradigm.other_conditioning}.items():
        if found is not None and not isinstance(found, Conditioning):
            of = f" of {suffix}" if suffix else ""
            raise UserError(f"{name}: the conditioning{of} is {found!r}, but it must be a Conditioning or None.")
    noise_dim = getattr(paradigm, "noise_dim", None)
    if not isinstance(noise_dim, int) or noise_dim < 1:
        raise UserError(f"{name}: noise_dim is {noise_dim!r}, but it must say how many numbers make an image.")
    _check_players(name, paradigm)
    has_codes = any(hasattr(paradigm, method) for method in ("codes", "encode"))
    if getattr(paradigm, "ex_post", None) is not None and not has_codes:
        raise UserError(
            f"{name} has an ex_post density, but neither `codes` nor `encode`, so there are no latents that it "
            "could be fitted to: leave ex_post out."
        )


def _check_players(name: str, paradigm: "Paradigm") -> None:
    players: Any = paradigm.players()
    if (
        not isinstance(players, Mapping)
        or not players
        or not all(hasattr(one, "objective") for one in players.values())
    ):
        raise UserError(f"{name}.players must give a dictionary of one Player or more by name.")
    names = {id(parameter): key for key, parameter in paradigm.named_parameters() if parameter.requires_grad}
    owner: dict[int, str] = {}
    for player, one in players.items():
        if not callable(one.objective):
            raise UserError(
                f"{name}: the objective of the player {player} is {one.objective!r}, but it must be a method."
            )
        parts = list(one.groups)
        parameters = [p for part in parts for p in (part["params"] if isinstance(part, dict) else [part])]
        if not parameters:
            raise UserError(f"{name}: the player {player} has no parameters, so there is nothing that it could train.")
        for parameter in parameters:
            if id(parameter) in owner:
                raise UserError(
                    f"{name}: {names.get(id(parameter), 'a parameter')} belongs to the players "
                    f"{owner[id(parameter)]} and {player}, but a parameter has one player."
                )
            owner[id(parameter)] = player
    left = [key for number, key in names.items() if number not in owner]
    if left:
        raise UserError(
            f"{name}: {left[0]} belongs to no player, so it would never be trained: name it in `players`, or let it "
            "require no gradient."
        )


def check_data(paradigm: "Paradigm", data: object, use: str = "trained") -> None:
    """Check that a model was made for the data that it is used on, and for the way in which they are drawn.

    Args:
        paradigm: the model.
        data: any object; only data modules are looked at.
        use: what is done with the model, for the errors.

    Raises:
        UserError: it was made for others.
    """
    if not isinstance(data, DataModule):
        return
    name, made_for = type(paradigm).__name__, f"it is {use} on {type(data).__name__}, where it is"
    if paradigm.image_shape != data.image_shape:
        raise UserError(f"{name} was made with image_shape {paradigm.image_shape}, but {made_for} {data.image_shape}.")
    if paradigm.num_classes not in (1, data.num_classes):
        raise UserError(f"{name} was made with num_classes {paradigm.num_classes}, but {made_for} {data.num_classes}.")
    has_codes = hasattr(paradigm, "codes") and "codes" not in paradigm.lacks
    counts = has_codes or (use == "trained" and paradigm.num_train != 1)
    if paradigm.num_train != data.num_train and counts:
        raise UserError(f"{name} was made with num_train {paradigm.num_train}, but {made_for} {data.num_train}.")
    if data.drawing.horizontal_flips and has_codes:
        raise UserError(
            f"{name} has a latent for each training image, and data.horizontal_flips would make it stand for the image "
            "and for its mirror image: leave that out, or add mirrored pictures to the data as images of their own.",
            2,
        )
    if data.drawing.class_balanced and any(getattr(part, "each_image_once", False) for part in paradigm.modules()):
        raise UserError(
            f"{name} gives each training image a latent that it takes once in an epoch, but data.class_balanced draws "
            "images of small classes several times: leave that out.",
            2,
        )
    if use == "trained" and data.trainer is not None:  # where it is known how many processes there are
        _check_batches(paradigm, data.trainer.train_dataloader, data.trainer.world_size)


def _check_batches(paradigm: "Paradigm", loader: object, processes: int) -> None:
    """Check that each batch of an epoch has the images that a loss of the set needs.

    Args:
        paradigm: the model.
        loader: of the training images on this process; only encdec's says how they are cut.
        processes: how many train together.

    Raises:
        UserError: one has fewer.
    """
    if not isinstance(loader, Loader):
        return
    last, least = loader.share % loader.batch_size or loader.batch_size, paradigm.least_images
    found = min(loader.batch_size, last) * processes
    if found >= least:
        return
    name = type(paradigm).__name__
    if loader.batch_size * processes < least:
        raise UserError(
            f"{name} compares sets of images, but data.batch_size {loader.batch_size} on {processes} process is no "
            f"set: it must be at least {least}.",
            2,
        )
    raise UserError(
        f"{name} compares sets of images, but the last batch of an epoch would have {found}: set data.drop_last to "
        "true, or another data.batch_size.",
        2,
    )
