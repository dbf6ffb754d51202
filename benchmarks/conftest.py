"""Speed is measured as readers have it: without the checks of shapes and types that the tests switch on."""

from jaxtyping import config

config.update("jaxtyping_disable", True)
