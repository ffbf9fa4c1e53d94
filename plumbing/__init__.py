"""What every script needs and no paper is about: stopping, the output directory, pictures."""

import os

# OpenMP's threads soon sleep when they wait: docs/speed.md. It is read when torch is imported, and
# every script imports from here first. libgomp heeds both, other OpenMP libraries the second.
if "GOMP_SPINCOUNT" not in os.environ and "OMP_WAIT_POLICY" not in os.environ:
    os.environ["GOMP_SPINCOUNT"] = "1000"
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
