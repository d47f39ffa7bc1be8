"""What a model's name depends on besides its arguments."""

from ogpsa_factory.lab.grid import source
from ogpsa_factory.lab.grid.source import _code, processor, source_digest, versions


def test_comments_and_docstrings_do_not_count_and_code_does(tmp_path):
    def code(text):
        (tmp_path / "module.py").write_text(text)
        return _code(tmp_path / "module.py")

    first = code('"""One."""\ndef f(x):\n    """Two."""\n    return x + 1  # three\n')
    assert code('"""1."""\n\n\ndef f(x):\n    """2."""\n    return (x + 1)\n') == first
    assert code('"""One."""\ndef f(x):\n    """Two."""\n    return x + 2\n') != first
    assert code('"""One."""\ndef f(x):\n    """Two."""\n    g("a")\n    return x + 1\n') != first


def test_every_pattern_finds_code_and_worlds_training_and_measures_are_in_it(monkeypatch):
    package = source._PACKAGE
    found = {pattern: list(package.glob(pattern)) for pattern in (*source._PLUGIN, *source._WORLD)}
    assert all(found.values())
    names = {path.relative_to(package).as_posix() for paths in found.values() for path in paths}
    assert {"controller.py", "metrics.py", "engines/native.py", "lab/world.py", "lab/themes/town.py"} <= names
    before = source_digest()
    source_digest.cache_clear()
    monkeypatch.setattr(source, "_code", lambda path: path.name if path.name != "metrics.py" else "changed")
    assert source_digest() != before
    source_digest.cache_clear()


def test_versions_and_processor_are_named():
    assert {"torch", "llamafactory", "numpy", "python"} <= set(versions()) and processor()
