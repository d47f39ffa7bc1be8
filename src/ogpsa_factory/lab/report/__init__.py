"""`ogpsa report` of grids: what came out of `ogpsa lab run`, with intervals over seeds and paired tests."""
