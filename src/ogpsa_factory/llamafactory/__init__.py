"""Everything that knows LLaMA-Factory: arguments, patches, data, trainer. Imported only once LLaMA-Factory is."""
