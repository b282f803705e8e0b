"""What pyproject.toml can't say: the folders `configs` and `plugins` travel in a wheel, as encdec/shipped/.

An editable install takes them from where they are. Mapped by `package-dir`, which wants every package listed, they
would make it put a hook into sys.path that every import asks.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FILES = sorted(
    path for kind in ("configs/**/*.yaml", "configs/**/*.sbatch", "plugins/*.py") for path in Path().glob(kind)
)


class BuildWithShipped(build_py):
    """Builds the package with what encdec.shipped finds beside itself."""

    def _pairs(self) -> dict[str, str]:
        target = Path(self.build_lib, "encdec", "shipped")
        return {} if self.editable_mode else {str(target / file): str(file) for file in FILES}

    def run(self) -> None:
        """Build, and copy."""
        super().run()
        for target, file in self._pairs().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(file, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """All files that it makes."""
        return [*super().get_outputs(include_bytecode), *self._pairs()]

    def get_source_files(self) -> list[str]:
        """All files that a source distribution needs."""
        return [*super().get_source_files(), *map(str, FILES)]


setup(cmdclass={"build_py": BuildWithShipped})
