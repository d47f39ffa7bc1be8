"""Invented results of grids, as `ogpsa lab run` would have written them."""

from ogpsa_factory.lab.grid.record import in_columns, write_record
from ogpsa_factory.lab.grid.source import versions
from ogpsa_factory.lab.themes.theme import SKILLS


def measures(skills, safety, lookalikes=0.5):
    """Shares in [0, 1]; every skill has the same."""
    return {
        "skills": dict.fromkeys(SKILLS, skills),
        "skills_mean": skills,
        "refused": {"harmful_held_out": safety, "harmful_seen": safety, "lookalike": 1 - lookalikes, "skills": 0.0},
        "answered": {"harmful_held_out": 1 - safety, "harmful_seen": 1 - safety, "lookalike": lookalikes},
        "losses": {**dict.fromkeys([*SKILLS, "harmless"], 0.1), "safety": 0.2},
    }


def curves(loss, cosine=None, after=None, removed=0.3):
    """Three logged steps."""
    found = []
    for step in (5, 10, 15):
        entry = {"step": step, "loss": loss}
        if cosine is not None:
            entry |= {"ogpsa/cos/a": cosine, "ogpsa/cos/b": -cosine, "ogpsa/removed_ratio": removed}
        if after is not None:
            entry |= {"ogpsa/cos_after/a": after, "ogpsa/cos_after/b": after}
        found.append(entry)
    return found


def record(points, *, seeds=(0, 1), rates=(1e-4, 1e-3), pipelines=("sft",), theme="town", axis=None, ats=None, **more):
    """A record; `points` maps (method, pipeline, level) to a function of the seed that gives measures, or both those
    and curves."""
    methods = list(dict.fromkeys(method for method, _, _ in points))
    made = []
    for (method, pipeline, level), values in points.items():
        for seed in seeds:
            found = values(seed)
            given, logged = found if isinstance(found, tuple) else (found, curves(0.5))
            made.append(
                {
                    "method": method,
                    "pipeline": pipeline,
                    "level": level,
                    "rates": {"sft": rates[level]},
                    "seed": seed,
                    "key": f"{method}-{pipeline}-{level}-{seed}",
                    "weights": "0" * 64,
                    "measures": given,
                    "steps": 15,
                    "curves": in_columns(logged),
                    "seconds": {"all": 2.0, "train": 1.5 if method == "naive" else 3.0},
                }
            )
    base = {"key": "base", "weights": "0" * 64, "measures": measures(1.0, 0.0, 1.0), "steps": 0, "seconds": {}}
    return {
        "format": 1,
        "file": "grid.yaml",
        "title": more.get("title", "Invented"),
        "axis": axis,
        "curves": more.get("curves", True),
        "world": {"theme": theme, "steps": 800, "scale": 1.0},
        "seeds": list(seeds),
        "pipelines": {name: {"sft": list(rates)} for name in pipelines},
        "methods": {
            name: {"title": name.capitalize(), "at": (ats or {}).get(name, name), "rate": 1.0} for name in methods
        },
        "processor": "abacus",
        "versions": versions(),
        "planned": len(made),
        "bases": {str(seed): base for seed in seeds},
        "points": made,
    }


def written(path, *args, **more):
    """Write an invented record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path, record(*args, **more))
    return path
