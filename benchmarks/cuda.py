"""What is to be known about a GPU, in one call of under nine minutes.

    python benchmarks/cuda.py [--sections right,cost,ranks,inference,loader,learning,compiled,real] [--minutes 8.5]
    python benchmarks/cuda.py --small     # every section on the CPU in a minute or two, to know that it runs

Writes benchmarks/results/cuda.json after each section, with card, versions and commit, so that a call that is cut off
keeps what it has. A section that fails is written down with its error, and the others go on; the exit code is then 1.
Nothing is downloaded: weights are random, frames are rendered; `real` needs `--drives`. The sections are in
`cuda_sections.py`.
"""

import sys
from pkgutil import extend_path

# Where this folder is on the path, `import cuda`, which torch does, finds this file before NVIDIA's package of that
# name, and the package's parts through it.
__path__ = extend_path([], "cuda")

if __name__ == "__main__":
    from cuda_sections import main

    sys.exit(main(__doc__))
