"""The judge: grades answers that were generated before, by a model behind an endpoint or by keywords."""
