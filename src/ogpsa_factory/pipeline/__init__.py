"""`ogpsa pipeline`: stages of training one after the other, each an ordinary LLaMA-Factory run of its own process."""
