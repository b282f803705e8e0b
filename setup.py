"""The part of encdec that is compiled; everything else is in pyproject.toml.

Where it can't be compiled, torch does what it does (`encdec/kernels.py`). It is not linked with an OpenMP library: it
uses that of torch, and so the threads of torch.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "encdec._kernels",
            ["encdec/kernels.c"],
            libraries=["m"],
            extra_compile_args=["-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"],
            optional=True,
        )
    ]
)
