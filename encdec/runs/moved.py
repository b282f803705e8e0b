"""Checkpoints and exports that were taken out of their run, without the run's config."""

import yaml

from encdec import plugins
from encdec.data import DataModule
from encdec.data.fingerprints import identity_in
from encdec.runs import build, identity, trust
from encdec.runs.checkpoints import paradigm_class, read_checkpoint
from encdec.types import UserError


def model_as_config(path: str, data_are_named: bool) -> str:
    """The model that a checkpoint holds, and its seed, as YAML for the parser.

    Args:
        path: of the checkpoint, or of an export of one.
        data_are_named: whether the user names the data; a checkpoint says what they were, but not where they are now.

    Raises:
        UserError: the data are not named; or the checkpoint can't be read, or the model is none that is known here.
    """
    contents = read_checkpoint(path)
    known = paradigm_class(contents, path)
    held = identity.of_checkpoint(contents)
    if not data_are_named:
        data = identity_in(contents, path)
        known_data = [cls.__name__ for cls in plugins.subclasses(DataModule)]
        were = f"; it was trained on {data.name}" if data is not None and data.name in known_data else ""
        raise UserError(
            f"{path} has no config of a run beside it, so the data must be named: give --data NAME{were}.", 2
        )
    trust.check_size(held, path)
    try:
        # what fits are plain values and known classes, whereas a parser takes text for many things
        settings = build.as_plain(build.fitted(known, held["model"]["init_args"], build.OF_CHECKPOINTS))
        seed = build.fit(held.get("seed_everything", 0), int, build.OF_CHECKPOINTS, "seed")
    except build.UnfitError as error:
        raise UserError(f"{path} does not fit the {known.__name__} that is known here: {error}.") from error
    model = {"class_path": f"{known.__module__}.{known.__qualname__}", "init_args": settings}
    as_yaml: str = yaml.safe_dump({"model": model, "seed_everything": seed})
    return as_yaml
