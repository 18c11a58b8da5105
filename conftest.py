"""For all tests and for the notebooks that pytest runs."""

import os

# Each process gets a learner's folder of its own, so that no run depends on what was kept or solved before.
os.environ["ROADTOPO_LEARNER"] = ""
