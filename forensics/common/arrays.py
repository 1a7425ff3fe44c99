"""What arrays of N images hold: numbers, labels, groups."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
"""Numbers of any shape."""
Labels = npt.NDArray[np.bool_]
"""[N], True for fake."""
Groups = npt.NDArray[np.int64]
"""[N], the number of each image's group, from 0."""
