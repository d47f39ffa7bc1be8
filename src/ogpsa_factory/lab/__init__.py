"""The miniature world: a language model, a harm it knows of, and an alignment experiment, all in minutes on a laptop.

`world` writes the text of a theme, `build` trains the base model on it, `evaluate` measures a model by generation and
`compare` sets models side by side; `grid` runs methods over learning rates and seeds, and `report` says what came out.
Nothing here is imported by the plugin.
"""
