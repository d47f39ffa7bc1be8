"""`ogpsa report`: scores of evaluated models as the paper's Table 1, with intervals and tests."""
