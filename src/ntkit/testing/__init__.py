"""A contract that every activation and every layer keeps, for those that are registered from outside.

    ntkit.testing.check_activation(Snake(0.5))               # a dual: against quadrature, and what follows from it
    ntkit.testing.check_layer(build, sample_shape=(8,))      # a layer in a network: against wide finite networks, …

Each raises `ntkit.errors.ContractViolation`, an AssertionError, that names the property which failed, with numbers.
"""

from ntkit.testing.activations import check_activation
from ntkit.testing.layers import check_layer

__all__ = ["check_activation", "check_layer"]
