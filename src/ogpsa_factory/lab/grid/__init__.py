"""`ogpsa lab run`: grids of methods, learning rates and seeds, every point a real LLaMA-Factory run in the world."""
