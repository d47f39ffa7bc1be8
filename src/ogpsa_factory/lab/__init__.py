"""The miniature world: a language model, a harm it knows of, and an alignment experiment, all in minutes on a laptop.

`world` writes the text, `build` trains the base model on it, `evaluate` measures a model by generation and `compare`
sets models side by side. Nothing here is imported by the plugin.
"""
