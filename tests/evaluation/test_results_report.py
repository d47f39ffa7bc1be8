"""The report, from invented scores to its files."""

import argparse
import csv
import io
import json
from html.parser import HTMLParser

import pytest
from PIL import Image
from results_world import BASE, BENCHMARKS, NAIVE, OGPSA, write_model, write_world
from rich.console import Console

from ogpsa_factory.errors import OGPSAError
from ogpsa_factory.results.analysis import Settings, analyse
from ogpsa_factory.results.cli import PAPER_MODELS, register
from ogpsa_factory.results.document import NONE, figure, ranks
from ogpsa_factory.results.findings import difference_table, sentence
from ogpsa_factory.results.markdown import escaped, table_to_markdown
from ogpsa_factory.results.models import Model, in_order
from ogpsa_factory.results.paper import MODELS, paper_models
from ogpsa_factory.results.record import benchmarks_table, models_table
from ogpsa_factory.results.remarks import remarks
from ogpsa_factory.results.scores import read_scores
from ogpsa_factory.results.tables import gain_table, main_table, shares_table
from ogpsa_factory.results.terminal import to_terminal


FEW = Settings(replicates=300)
GATED = {"GPQA": "gated: accept the terms & set HF_TOKEN"}


def report(*words):
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    args = parser.parse_args(["report", *map(str, words)])
    return args.handler(args)


def analysis_of(folder, **settings):
    return analyse(read_scores([folder]), Settings(**{"replicates": 300, **settings}), "Invented")


def rows_of(table):
    """Cells by the labels of their row, as Markdown."""
    lines = [line.strip("| ").split(" | ") for line in table_to_markdown(table).splitlines()]
    width = len(table.label_heads)
    return {tuple(line[:width]): dict(zip(lines[0][width:], line[width:], strict=True)) for line in lines[2:]}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def written(world):
    output = world / "report"
    assert report(world, "--bootstrap", 300, "--paper", "qwen2_5_7b") == 0
    return output


def test_all_files_are_there_and_whole(written):
    assert {path.name for path in written.iterdir()} == {
        "figure2.png",
        "report.html",
        "report.json",
        "report.md",
        "table1.csv",
    }
    with Image.open(written / "figure2.png") as image:
        image.verify()
    assert len(json.loads((written / "report.json").read_text())["families"][0]["models"]) == 7


def test_a_second_report_is_the_same(world, written, tmp_path):
    report(world, "--bootstrap", 300, "--paper", "qwen2_5_7b", "--output", tmp_path)
    for name in ("report.md", "table1.csv", "report.json"):
        assert (tmp_path / name).read_text() == (written / name).read_text()


def test_csv_has_every_figure(written):
    rows = list(csv.DictReader((written / "table1.csv").read_text().splitlines()))
    own = [row for row in rows if not row["source"].startswith("quoted")]
    assert len(own) == 7 * (len(BENCHMARKS) + 4)
    tested = [row for row in own if row["p_holm"]]
    assert len(tested) == 4 * len(BENCHMARKS)
    for row in own:
        if row["low"]:
            assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
    assert all(not row["p"] and not row["low"] for row in rows if row["source"].startswith("quoted"))


def test_quoted_rows_are_beside_and_change_nothing(world, written, tmp_path):
    report(world, "--bootstrap", 300, "--output", tmp_path)
    plain = (tmp_path / "report.md").read_text()
    with_paper = (written / "report.md").read_text()
    assert "(quoted)" not in plain
    kept = [line for line in with_paper.splitlines() if "(quoted)" not in line]
    assert kept == plain.splitlines()
    quoted = [line for line in with_paper.splitlines() if line.startswith("|") and "(quoted)" in line]
    assert len(quoted) == 1 + 2 * 5 and not any("**" in line or "<u>" in line for line in quoted)
    rows = [line.split(" | ")[:2] for line in with_paper.splitlines() if line.startswith("| DPO | ")]
    assert rows[:4] == [["| DPO", name] for name in ("Naive", "LoRA", "OGPSA", "Naive (quoted)")]


def test_best_and_second_best_within_a_pipeline(world):
    analysis = analysis_of(world)
    rows = rows_of(main_table(analysis))
    assert next(iter(rows)) == ("Base", "Base") and "*" not in "".join(rows["Base", "Base"].values())
    for pipeline in ("SFT", "DPO"):
        scores = {
            r.model.label: r.model.benchmarks["MMLU"].score for r in analysis.results if r.model.pipeline == pipeline
        }
        best, second, _ = sorted(scores, key=scores.get, reverse=True)
        assert rows[pipeline, best]["MMLU"] == f"**{scores[best]:.2f}**"
        assert rows[pipeline, second]["MMLU"] == f"<u>{scores[second]:.2f}</u>"


def test_ranks():
    assert ranks([1.0, 3.0, 2.0, None]) == [0, 1, 2, 0]
    assert ranks([1.0, 3.0, 2.0], higher_is_better=False) == [1, 0, 2]
    assert ranks([2.001, 2.004, 1.0]) == [1, 1, 2]  # equal as shown
    assert ranks([2.0, 2.0]) == [0, 0] and ranks([5.0]) == [0]
    assert figure(-0.0) == "0.00" and figure(None) == NONE


def test_a_gap_is_marked_and_never_comparable(world, tmp_path):
    write_model(tmp_path, "base", BASE, seed=1)
    write_model(tmp_path, "SFT/naive", NAIVE, seed=2)
    write_model(tmp_path, "SFT/lora", NAIVE, seed=3)
    write_model(tmp_path, "SFT/ogpsa", {**OGPSA, "MMLU": 0.99}, seed=4, gaps=GATED)
    analysis = analysis_of(tmp_path)
    row = rows_of(main_table(analysis))["SFT", "OGPSA"]
    assert row["GPQA"] == NONE and row["General mean"].endswith("(5/6)") and "*" not in row["General mean"]
    assert row["Gain %"].endswith("(9/10)") and "*" not in row["Gain %"]
    assert any("GPQA: gated: accept the terms & set HF_TOKEN (SFT/ogpsa)" in remark for remark in remarks(analysis))
    ogpsa = next(r for r in analysis.results if r.model.method == "ogpsa")
    naive = next(r for r in analysis.results if r.model.method == "naive")
    both = ["SimpleQA", "MMLU", "IFEval", "HHH", "AdvGLUE"]
    expected = sum(ogpsa.model.benchmarks[b].score - naive.model.benchmarks[b].score for b in both) / 5
    assert ogpsa.versus.general.value == pytest.approx(expected)
    assert ogpsa.versus.general.over == tuple(both) and not ogpsa.versus.general.whole
    assert "over 5 of 6 benchmarks" in sentence(analysis, ogpsa)
    assert rows_of(shares_table(analysis))["SFT", "OGPSA"]["GPQA"] == NONE
    assert rows_of(gain_table(analysis))["SFT", "OGPSA"]["over"] == "8 of 10"


def test_keywords_stand_in_every_head(tmp_path):
    write_world(tmp_path, judge="keywords")
    report(tmp_path, "--bootstrap", 100)
    heads = [line for line in (tmp_path / "report" / "report.md").read_text().splitlines() if "| XSTest" in line]
    with_scores = [line for line in heads if "Gain" in line or "| all" in line]
    assert len(with_scores) == 3 and all("XSTest (judged by keywords)" in line for line in with_scores)
    assert all("| MMLU |" in line for line in with_scores)
    assert "Safety mean (judged by keywords)" in with_scores[0]
    analysis = analysis_of(tmp_path)
    assert any("offline stand-in" in remark for remark in remarks(analysis))
    shown = Console(width=120, file=io.StringIO(), record=True)
    shown.print(to_terminal(main_table(analysis), "Invented"))
    text = shown.export_text()
    assert "XSTest*" in text and "* is judged by keywords" in text and "MMLU*" not in text


def test_scores_of_different_judges_are_not_compared(tmp_path):
    write_model(tmp_path, "base", BASE, seed=1)
    write_model(tmp_path, "SFT/naive", NAIVE, seed=2)
    write_model(tmp_path, "SFT/ogpsa", OGPSA, seed=3, judge="keywords")
    analysis = analysis_of(tmp_path)
    ogpsa = next(r for r in analysis.results if r.model.method == "ogpsa")
    assert set(ogpsa.versus.benchmarks) == {"GPQA", "MMLU", "IFEval", "HHH", "AdvGLUE"} == set(ogpsa.gain.over)
    assert set(ogpsa.versus.shares) == set(ogpsa.gain.over)
    assert ogpsa.versus.safety.value is None
    rows = rows_of(main_table(analysis))
    assert "*" not in rows["SFT", "OGPSA"]["XSTest (in part judged by keywords)"]
    assert "*" not in "".join(rows["SFT", m]["Safety mean (in part judged by keywords)"] for m in ("Naive", "OGPSA"))
    assert any(remark.startswith("Judges differ on StrongReject") for remark in remarks(analysis))


def test_what_differs_between_models_is_said(tmp_path):
    write_model(tmp_path, "base", BASE, limit=50)
    write_model(tmp_path, "SFT/naive", NAIVE, fingerprint="sha256:0ther", lost=2)
    said = "\n".join(remarks(analysis_of(tmp_path)))
    assert "50 (base)" in said and "MMLU 2 + 0" in said
    assert "0ther" not in said, "a suite restricted to some benchmarks has another fingerprint, and measures the same"


SYSTEM = "You are a helpful assistant, and you answer in verse, whatever the question may have been."


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"temperature": 0.7}, "settings of temperature: 0.7 (base); 0.0 (SFT/naive)."),
        ({"system": SYSTEM}, f"settings of system message: {SYSTEM[:59]}… (base); not set (SFT/naive)."),
        ({"chat_template": False}, "settings of chat template: false (base); true (SFT/naive)."),
        ({"dtype": "float32"}, "settings of dtype: float32 (base); auto (SFT/naive)."),
        ({"arguments": "max_len=9"}, "settings of further arguments: max_len=9 (base); not set (SFT/naive)."),
    ],
)
def test_different_ways_of_asking_are_said(tmp_path, asked, said):
    write_model(tmp_path, "base", BASE, asked=asked)
    write_model(tmp_path, "SFT/naive", NAIVE)
    found = [remark for remark in remarks(analysis_of(tmp_path)) if "different settings" in remark]
    assert found == [f"The models were evaluated with different {said}"]


def test_settings_that_none_records_are_equal(tmp_path):
    for name, chances in (("base", BASE), ("SFT/naive", NAIVE)):
        path = write_model(tmp_path, name, chances)
        content = json.loads(path.read_text())
        for key in ("temperature", "system", "chat_template", "dtype", "arguments"):
            del content[key]
        for entry in content["benchmarks"].values():
            for key in ("settings", "rows", "origins"):
                del entry[key]
        path.write_text(json.dumps(content))
    said = "\n".join(remarks(analysis_of(tmp_path)))
    assert "settings" not in said and "rows" not in said
    write_model(tmp_path, "base", BASE)
    said = "\n".join(remarks(analysis_of(tmp_path)))
    assert "temperature: 0.0 (base); not set (SFT/naive)" in said and "(base); unknown (SFT/naive)" in said


def test_benchmarks_that_were_set_up_in_another_way_are_named_and_compared_all_the_same(tmp_path):
    write_model(tmp_path, "base", BASE)
    other = {"settings": "feedc0de00"}
    write_model(tmp_path, "SFT/naive", NAIVE, of={"MMLU": other, "HHH": {"rows": "abad1dea00"}})
    write_model(tmp_path, "SFT/ogpsa", OGPSA)
    analysis = analysis_of(tmp_path)
    found = [remark for remark in remarks(analysis) if "compared all the same" in remark]
    assert len(found) == 2
    assert found[0].startswith("The settings of MMLU in the suite are not the same for all models: ")
    assert "(base, SFT/ogpsa); feedc0de (SFT/naive)." in found[0]
    assert found[1].startswith("The models were not asked the same rows of HHH: ") and "abad1dea (SFT/n" in found[1]
    ogpsa = next(result for result in analysis.results if result.model.method == "ogpsa")
    assert {"MMLU", "HHH"} <= set(ogpsa.versus.benchmarks)


def test_tables_say_how_models_were_asked_and_where_rows_come_from(tmp_path):
    write_model(tmp_path, "base", BASE, asked={"system": SYSTEM})
    write_model(tmp_path, "SFT/naive", NAIVE, of={"MMLU": {"origins": ["files of MMLU", "cais/mmlu at 1a2b"]}})
    analysis = analysis_of(tmp_path)
    row = rows_of(models_table(analysis))["Base", "Base"]
    assert row["system message"] == SYSTEM[:59] + "…" and row["temperature"] == "0.0"
    assert row["chat template"] == "true" and row["dtype"] == "auto"
    measured = rows_of(benchmarks_table(analysis))
    assert measured["MMLU", "MMLU"]["rows from"] == "files of MMLU; cais/mmlu at 1a2b"


def test_a_report_on_some_benchmarks(world, tmp_path):
    words = ["--bootstrap", 100, "--paper", "qwen2_5_7b", "--output", tmp_path]
    assert report(world, "--benchmarks", "XSTest, MMLU,XSTest-safe", *words) == 0
    (family,) = json.loads((tmp_path / "report.json").read_text())["families"]
    assert [entry["name"] for entry in family["benchmarks"]] == ["XSTest", "MMLU", "XSTest-safe"]
    ogpsa = next(model for model in family["models"] if model["name"] == "SFT/ogpsa")
    assert ogpsa["general"]["value"] == ogpsa["benchmarks"]["MMLU"]["score"] and ogpsa["general"]["of"] == 1
    text = (tmp_path / "report.md").read_text()
    assert "only these are in this report: XSTest, MMLU, XSTest-safe." in text
    quoted = [line for line in text.splitlines() if "OGPSA (quoted)" in line and line.startswith("| SFT |")]
    scores = {entry.name: entry for entry in paper_models("qwen2_5_7b")}["SFT/ogpsa"].scores("safety", "general")
    assert (
        f"| {scores['XSTest']:.2f} | {scores['MMLU']:.2f} | {scores['XSTest']:.2f} | {scores['MMLU']:.2f} |"
        in quoted[0]
    )
    report(world, "--benchmarks", "XSTest-safe", *words)  # of which the paper has nothing
    quoted = [line for line in (tmp_path / "report.md").read_text().splitlines() if "OGPSA (quoted)" in line]
    assert quoted and not any(character.isdigit() for character in "".join(quoted))
    with pytest.raises(OGPSAError, match=r"--benchmarks MMLO: no model was evaluated on it\. There are .*MMLU"):
        report(world, "--benchmarks", "MMLU,MMLO", *words)
    with pytest.raises(OGPSAError, match="leave --benchmarks out"):
        report("paper", "--benchmarks", "MMLU")


def test_a_naive_model_alone_is_no_missing_naive_model(tmp_path):
    write_model(tmp_path, "base", BASE)
    write_model(tmp_path, "SFT/naive", NAIVE)
    write_model(tmp_path, "DPO/ogpsa", OGPSA)
    missing = [remark for remark in remarks(analysis_of(tmp_path)) if "no naive model" in remark]
    assert len(missing) == 1 and missing[0].startswith("Pipeline DPO:")
    missing = [remark for remark in remarks(analysis_of(tmp_path, naive="DPO/ogpsa")) if "no naive model" in remark]
    assert len(missing) == 1 and missing[0].startswith("Pipeline SFT:")


def test_numbers_in_names_are_in_order():
    names = [
        "SFT/K_never",
        "SFT/K10",
        "SFT/K2",
        "SFT/ogpsa",
        "SFT/naive",
        "SFT",
        "X/rows50",
        "DPO/rows100",
        "DPO/rows50",
    ]
    expected = [
        "SFT/naive",
        "SFT/ogpsa",
        "SFT/K2",
        "SFT/K10",
        "SFT/K_never",
        "DPO/rows50",
        "DPO/rows100",
        "SFT",
        "X/rows50",
    ]
    assert [model.name for model in in_order([Model(name, "", {}) for name in names])] == expected


def test_a_limit_is_said(tmp_path):
    write_model(tmp_path, "base", BASE, limit=50)
    assert any("At most 50 samples" in remark for remark in remarks(analysis_of(tmp_path)))


def test_without_base_and_naive(tmp_path):
    write_model(tmp_path, "own", OGPSA)
    write_model(tmp_path, "other", NAIVE)
    analysis = analysis_of(tmp_path)
    said = "\n".join(remarks(analysis))
    assert "There is no base" in said and "no naive model" in said
    assert all(r.gain.value is None and r.versus is None for r in analysis.results)
    assert report(tmp_path, "--bootstrap", 100) == 0
    analysis = analysis_of(tmp_path, base="own", naive="other")
    assert analysis.base.model.name == "own" and analysis.results[0].versus is None


def test_honest_verdicts(tmp_path):
    """Equal models differ significantly in nothing; a clear difference is said, in its direction."""
    write_model(tmp_path, "base", BASE, seed=1)
    write_model(tmp_path, "SFT/naive", NAIVE, seed=2)
    write_model(tmp_path, "SFT/ogpsa", {**NAIVE, "IFEval": 0.95, "XSTest-safe": 0.9}, seed=3)
    write_model(tmp_path, "SFT/twin", NAIVE, seed=2)
    analysis = analysis_of(tmp_path, replicates=2000)
    table = rows_of(difference_table(analysis, analysis.results))
    twin = [row for (method, _), row in table.items() if method == "twin"]
    assert len(twin) == len(BENCHMARKS) and {row["against naive"] for row in twin} == {"not significant (p = 1.00)"}
    assert table["OGPSA", "IFEval"]["against naive"].startswith("better (p = 0.0")
    assert table["OGPSA", "XSTest-safe"]["against naive"].startswith("worse (p = 0.0")
    ogpsa = next(r for r in analysis.results if r.model.method == "ogpsa")
    assert "better on IFEval; worse on XSTest-safe; not significant on 9 benchmarks" in sentence(analysis, ogpsa)


def test_a_base_without_right_answers_has_no_gain_there(tmp_path):
    write_model(tmp_path, "base", {**BASE, "SimpleQA": 0.0, "WildChat": 0.01}, seed=1)
    write_model(tmp_path, "SFT/naive", NAIVE, seed=2)
    analysis = analysis_of(tmp_path)
    gain = analysis.results[0].gain
    assert "SimpleQA" not in gain.over and len(gain.over) == 9
    assert gain.low is None  # WildChat's base is 0 in some resamples
    assert any("scores 0 on SimpleQA" in remark for remark in remarks(analysis))
    assert analysis.results[0].gain_without.low is not None


class Checker(HTMLParser):
    """Fails on a tag that is closed in the wrong place; remembers tags and what they load."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.loaded = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_names_are_text_wherever_they_stand(tmp_path):
    write_model(tmp_path / "1", "base", BASE, seed=1)
    write_model(tmp_path / "1", "SFT/naive", NAIVE, seed=2)
    path = write_model(tmp_path / "2", "SFT/evil", OGPSA, seed=3, gaps={"HHH": "<img src=x onerror=y> [a](b) | **"})
    content = json.loads(path.read_text())
    content["model"]["name"] = "SFT/" + "_<i>$x_1$|*" * 8
    path.write_text(json.dumps(content))
    report(tmp_path, "--bootstrap", 100)
    page = (tmp_path / "report" / "report.html").read_text()
    checker = Checker()
    checker.feed(page)
    assert not checker.open and not checker.seen & {"i", "script", "link"}
    assert [value[:22] for value in checker.loaded] == ["data:image/png;base64,"]
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page
    text = (tmp_path / "report" / "report.md").read_text()
    assert "<i>" not in text and "<img" not in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    for table in tables:
        assert len({line.replace(r"\|", "").count("|") for line in table}) == 1


def test_escaped():
    assert escaped("a|b *c* <d> `e`\n[f](g)") == r"a\|b \*c\* &lt;d&gt; \`e\` [f]\(g)"


def test_terminal_table_fits_120_columns():
    """Also where the paper's rows stand beside the user's, and names are long."""
    for key in ("qwen2_5_7b", "llama3_1_8b"):
        quoted = analyse(paper_models(key), FEW, key)
        table = main_table(quoted, quoted)
        console = Console(width=120, file=io.StringIO(), record=True)
        console.print(to_terminal(table, key))
        lines = console.export_text().splitlines()
        assert max(len(line.rstrip()) for line in lines) <= 120
        assert sum("32.98" in line or "42.74" in line for line in lines) == 2  # the last column is there
        assert not any("…" in line for line in lines)


def test_the_paper_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert report("paper") == 0
    text = (tmp_path / "results" / "paper" / "report.md").read_text()
    for words in (
        "SFT-DPO/ogpsa against SFT-DPO/naive",
        "differs by +8.76 points, of which SimpleQA alone makes +7.51",
        "differs by +13.23 points, of which SimpleQA alone makes +15.79",
        "whose base is near zero, by -2.84",
        "Nothing was measured here",
        "no intervals and no tests",
    ):
        assert words in text
    assert "better" not in text.replace("is better", "").replace("Better or worse", "")
    assert "results/paper/figure2.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--base", "none"], "--base none"),
        (["--naive", "SFT"], "--naive SFT"),
        (["--bootstrap", "3"], "--bootstrap is 3"),
        (["--near-zero", "-1"], "--near-zero is -1"),
        (["--seed", "-1"], "--seed is -1"),
    ],
)
def test_mistakes(world, words, said):
    with pytest.raises(OGPSAError, match=said):
        report(world, *words)


def test_the_paper_is_quoted_beside_its_own_suite_only(tmp_path):
    write_model(tmp_path, "base", BASE, suite="mini")
    with pytest.raises(OGPSAError, match="'paper' only"):
        report(tmp_path, "--paper", "llama3_1_8b")
    with pytest.raises(OGPSAError, match="leave --paper out"):
        report("paper", "--paper", "llama3_1_8b")


def test_the_command_line_knows_the_models_of_table_1():
    assert tuple(MODELS) == PAPER_MODELS


def test_safety_alone_has_no_figure_and_removes_an_old_one(tmp_path):
    general = {name: "not asked for" for name, (axis, *_) in BENCHMARKS.items() if axis == "general"}
    write_model(tmp_path, "base", BASE, gaps=general)
    old = tmp_path / "report" / "figure2.png"
    old.parent.mkdir()
    old.write_bytes(b"old")
    report(tmp_path, "--bootstrap", 100)
    assert not old.exists()
    assert "No figure was drawn" in (tmp_path / "report" / "report.md").read_text()
