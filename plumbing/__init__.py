"""What every script needs and no paper is about: stopping, the output directory, pictures."""

import os

# OpenMP's threads sleep as soon as they wait: docs/speed.md. It is read when torch is imported,
# and every script imports from here first.
if "GOMP_SPINCOUNT" not in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
