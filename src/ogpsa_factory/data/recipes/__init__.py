"""The paper's choice of prompts and answers, one module a source; no files, no network."""
