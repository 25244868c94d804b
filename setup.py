"""Compiles the native kernels where there is a C compiler; without one the install goes on, and plain torch serves.

All else is in pyproject.toml. The library has a C interface and knows neither Python nor torch, so that one wheel for a
platform serves every version of both.
"""

import importlib.util
import pathlib
import sys

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = pathlib.Path("src", "tokenmix", "kernels")
spec = importlib.util.spec_from_file_location(
    "tokenmix_kernels_build", pathlib.Path(__file__).parent / SOURCES / "build.py"
)
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


class BuildKernels(build_ext):
    """Runs the same compiler call as the library itself at its first use."""

    def get_ext_filename(self, fullname: str) -> str:
        """Without the version of Python in the name."""
        return str(pathlib.Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Extension) -> None:
        """Compile, or say why not."""
        target = pathlib.Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            build.compile_library(build.find_compilers(), target)
        except (build.BuildError, OSError) as error:
            target.unlink(missing_ok=True)
            print(f"tokenmix: native kernels left out ({error}); plain torch will serve", file=sys.stderr)

    def get_outputs(self) -> list[str]:
        """Only what was made."""
        return [output for output in super().get_outputs() if pathlib.Path(output).exists()]

    def copy_extensions_to_source(self) -> None:
        """For editable installs; nothing to copy where nothing was compiled."""
        self.extensions = [
            ext for ext in self.extensions if pathlib.Path(self.build_lib, self.get_ext_filename(ext.name)).exists()
        ]
        super().copy_extensions_to_source()


class PlatformWheel(bdist_wheel):
    """One wheel a platform, for every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """py3-none-platform."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("tokenmix.kernels.libtokenmix", [str(SOURCES / "native.c")], optional=True)],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel},
)
