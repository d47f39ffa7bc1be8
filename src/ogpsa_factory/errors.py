"""The one exception type that users of this package see."""


class OGPSAError(ValueError):
    """A mistake in the input or in the environment that the user can mend; its message says how."""
