"""`ogpsa evaluate`: models through benchmarks by lm-eval, a judge for what no formula can grade, scores on disk."""
