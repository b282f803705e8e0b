"""Pictures that a trained model is shown: all of a folder, without splits or classes."""

from typing import Any, ClassVar, final

from encdec.data.base import DataModule
from encdec.data.image_folder import ImageFolder
from encdec.data.images import Images
from encdec.files import expanded
from encdec.types import Shape


@final
class NewPictures(DataModule):
    """All pictures below a folder, one or more, made to fit the images that a model was trained on.

    They are read as `ImageFolder` reads them, and each split is all of them.

    Args:
        path: the folder.
        image_shape: that of the model.
        num_classes: that of the model.
        num_train: that of the model.
        max_memory_gb: see `ImageFolder`.
        num_workers: see `ImageFolder`.
        skip_damaged: see `ImageFolder`.

    Attributes:
        predicted: the pictures' files, as paths in the folder.
    """

    places: ClassVar[frozenset[str]] = frozenset({"path"})
    resources: ClassVar[frozenset[str]] = frozenset({"max_memory_gb", "num_workers"})

    def __init__(
        self,
        path: str,
        image_shape: Shape,
        num_classes: int,
        num_train: int,
        max_memory_gb: float = 4.0,
        num_workers: int = 2,
        skip_damaged: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        channels, height, width = image_shape
        size = height if height == width else [height, width]
        self._folder = ImageFolder(
            expanded(path),
            size=size,
            mode="grey" if channels == 1 else "color",
            labels="none",
            max_memory_gb=max_memory_gb,
            num_workers=num_workers,
            skip_damaged=skip_damaged,
        )
        self._of_model = num_classes, num_train

    def load(self) -> tuple[Images, Images, Images]:
        """See `DataModule.load`."""
        images, self.predicted = self._folder.all_pictures()
        return images, images, images

    @property
    def called(self) -> str:
        """That of the class that the call names."""
        return ImageFolder.__name__

    @property
    def num_classes(self) -> int:
        """That of the model; the pictures' labels are 0."""
        return self._of_model[0]

    @property
    def num_train(self) -> int:
        """That of the model."""
        return self._of_model[1]
