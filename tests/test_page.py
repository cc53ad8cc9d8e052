"""The page in a headless Chromium: quiet console, sorting, filters, reasons by mouse and by keyboard, hostile texts, phones, dark mode, no script."""

from __future__ import annotations

import json
from dataclasses import replace

import chromium
import pytest

from bench.evidence import Difference
from bench.pareto import Costs, Field, Gain, Point
from bench.pareto_record import record_of
from bench.records import Record
from bench.report import judge
from bench.report.figures import Drawing
from bench.report.page import RECORDS, STANDINGS, Beside, pages

pytestmark = pytest.mark.skipif(not chromium.find(), reason=f"none of {', '.join(chromium.PROGRAMS)} is installed here")

EVIL = """<script>window.stolen = 1</script>"'><img src=x onerror="window.stolen = 1">&lt;{{ 7 * 7 }}</td>"""
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def run(row, seed=0, value=50.0, tier="proxy", machine="desk", **changes):
    context = {"data": "scenes-v1", "machine": {"name": machine}, "seconds": 12.5, "commit": "c" * 40, "versions": {"torch": "2.8.0"}}
    samples = {"curve": [{"images": 1000, "loss": 2.0, "val_ap": 20.0}, {"images": 2000, "loss": 1.0, "val_ap": 40.0}]}
    values = {"ap": value, "voc_ap50": value}
    record = Record(f"condensing.{row}.{tier}.s{seed}", "train", "condensing", row, tier, seed, "ok", "", "d" * 64, values)
    return replace(record, samples=samples, context=context, **changes)


def cost(row, params_m, paper="condensing"):
    values = {"params_m": params_m, "size_mb": 4 * params_m, "macs_g": params_m}
    return Record(f"{paper}.{row}.cost", "cost", paper, row, "", 0, "ok", "", "e" * 64, values, context={"scope": "head"})


def field():
    """Four rows of Compressed Object Detection: three on a curve below the dense one, none of them timed."""
    rows = (("dense", 60.0, 5, ""), ("both-30", 59.5, 5, "no"), ("both-50", 45.0, 1, "no"), ("both-90", 1.0, 1, "no"))
    found = [
        Point(
            f"compression.{row}", ap, (ap - 1, ap + 1), seeds, Costs(10 - at, macs_g=2.0, effective_macs_g=2 - at / 2, bops_g=99.0), speedup, (EVIL,)
        )
        for at, (row, ap, seeds, speedup) in enumerate(rows)
    ]
    gains = {(each.id, found[0].id): Gain(each.ap - 60, (each.ap - 60.3, each.ap - 59.7), each.seeds) for each in found[1:]}
    return Field(tuple(found), gains, missing=(EVIL,), references={each.id: found[0].id for each in found[1:]}, data="scenes-v1", machine=EVIL)


def standing():
    records = [run("fpn-r50", seed, 59.9 + 0.1 * seed) for seed in range(3)] + [run("k16-l5", seed, 57.9 + 0.1 * seed) for seed in range(3)]
    records += [run("k1-l1", value=9.5), run("k1-l1", tier="real", machine=f"laptop {EVIL}"), run("no-ld", status="failed", reason=EVIL, values={})]
    records += [cost("fpn-r50", 14.003), cost("k16-l5", 6.8), cost("k1-l1", 0.557), cost("int8", 40.0, paper="compression")]
    records += [record_of(field(), "proxy")]
    return judge(records, [Difference("condensing", "k16-l5", "fpn-r50", "voc_ap50", "proxy", -2.0, (-2.5, -1.5), 3, 0.7)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("page")
    beside = Beside((Drawing("a", EVIL, EVIL, "condensing", "bccd", EVIL, PIXEL),), [(EVIL, EVIL, (EVIL,))])
    for name, text in pages(standing(), beside).items():
        (path / name).write_text(text)
    return path


@pytest.fixture(scope="module")
def file(folder):
    return folder / STANDINGS


@pytest.fixture(scope="module")
def browser():
    found = chromium.Browser()
    yield found
    found.close()


@pytest.fixture
def tab(browser, file):
    browser.open(file)
    return browser


def column(tab, number, table="#board"):
    """The texts of a column's rows that are shown."""
    return tab.value(f"[...document.querySelectorAll('{table} tbody tr:not([hidden])')].map((row) => row.cells[{number}].textContent.trim())")


def choose(tab, selector, value):
    field = f"document.querySelector({json.dumps(selector)})"
    tab.value(f"{field}.value = {json.dumps(value)}; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))")


def tip(tab, expression="document.activeElement.nextElementSibling"):
    """Whether a reason is shown, whether it lies wholly in the window, and what it says."""
    return tab.value(
        f"""(() => {{ const tip = {expression}, box = tip.getBoundingClientRect();
        const inside = box.left >= 0 && box.top >= 0 && box.right <= innerWidth && box.bottom <= innerHeight;
        return [getComputedStyle(tip).display !== 'none' && box.width > 0, inside, tip.textContent] }})()"""
    )


# ---- loading


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", [STANDINGS, RECORDS])
def test_it_loads_without_a_word_on_the_console_and_fetches_nothing(browser, folder, name, scheme):
    file = folder / name
    browser.open(file, scheme=scheme)
    browser.value("document.querySelectorAll('img').forEach((image) => image.scrollIntoView())")
    assert browser.messages == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [file.resolve().as_uri()]


def test_hostile_texts_are_shown_as_texts(tab):
    assert tab.value("window.stolen") is None
    assert tab.value("document.images.length") == 1
    assert tab.value(f"document.querySelector('#audit h3').textContent === {json.dumps(EVIL)}")
    assert tab.value(f"document.images[0].alt === {json.dumps(EVIL)}")
    assert tab.value(f"[...document.querySelectorAll('.tip')].some((tip) => tip.textContent.includes({json.dumps(EVIL)}))")
    assert tab.value(f"[...document.querySelectorAll('select[data-key=machine] option')].some((option) => option.value.includes({json.dumps(EVIL)}))")


def test_hostile_texts_of_records_are_shown_as_texts(browser, folder):
    browser.open(folder / RECORDS)
    assert browser.value("window.stolen") is None
    assert browser.value(f"document.querySelector('#records').textContent.includes({json.dumps(EVIL)})")


def test_a_record_that_the_filter_hides_is_shown_where_a_link_leads_to_it(browser, folder):
    browser.open(folder / RECORDS)
    choose(browser, "form[data-for=records] [data-key=text]", "k16")
    assert all("k16" in text for text in column(browser, 0, "#records"))
    browser.value("location.hash = '#rec-condensing.fpn-r50.proxy.s1'")
    browser.value("new Promise((done) => setTimeout(done, 50))")
    assert "condensing.fpn-r50.proxy.s1" in column(browser, 0, "#records")


def test_a_script_that_got_in_would_not_run(tab, file, browser):
    """The policy holds where escaping would not."""
    text = file.read_text().replace("<footer>", "<footer><script>window.stolen = 1</script><img src=x onerror='window.stolen = 1'>")
    worse = file.with_name("worse.html")
    worse.write_text(text)
    browser.open(worse)
    assert browser.value("window.stolen") is None
    assert browser.messages


# ---- sorting and filtering


def test_a_heading_sorts_by_click_and_by_key_and_what_is_missing_stays_last(tab):
    heads = tab.value("[...document.querySelectorAll('#board thead th')].map((head) => head.textContent)")
    ap, before = heads.index("AP"), column(tab, 1)
    tab.value(f"document.querySelectorAll('#board .sort')[{ap}].focus()")
    tab.press("Enter", code=13, text="\r")
    shown = column(tab, ap)
    numbers = [float(text) for text in shown if text]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == 4
    assert shown[len(numbers) :] == [""] * (len(shown) - len(numbers))
    assert tab.value(f"document.querySelectorAll('#board thead th')[{ap}].getAttribute('aria-sort')") == "descending"
    tab.value(f"document.querySelectorAll('#board .sort')[{ap}].click()")
    assert [float(text) for text in column(tab, ap) if text] == numbers[::-1]  # 9.50 before 50.00: as numbers, not as texts
    tab.value(f"document.querySelectorAll('#board .sort')[{ap}].click()")
    assert column(tab, 1) == before


def test_sorting_a_table_of_a_paper_by_outcome(tab):
    table = "#condensing article:nth-of-type(2) table"
    tab.value(f"document.querySelectorAll('{table} .sort')[5].click()")
    words = tab.value(f"[...document.querySelectorAll('{table} tbody tr')].map((row) => row.dataset.word)")
    assert words == sorted(words)
    assert len(set(words)) > 1


@pytest.mark.parametrize(
    ("key", "value", "rows"),
    [
        ("paper", "compression", {"compression.int8"}),
        ("tier", "real", {"condensing.k1-l1.real"}),
        ("machine", "desk", {"condensing.fpn-r50.proxy", "condensing.k16-l5.proxy", "condensing.k1-l1.proxy", "condensing.no-ld.proxy"}),
        ("text", "K16", {"condensing.k16-l5.proxy"}),
    ],
)
def test_the_leaderboard_is_filtered(tab, key, value, rows):
    choose(tab, f"form[data-for=board] [data-key={key}]", value)
    assert set(column(tab, 1)) == rows
    assert tab.value("document.querySelector('form[data-for=board] output').textContent") == f"{len(rows)} of 6 rows"


def test_the_leaderboard_is_filtered_by_outcome_and_reset(tab):
    every = column(tab, 1)
    choose(tab, "form[data-for=board] [data-key=outcome]", "undertrained")
    assert set(column(tab, 1)) < set(every)
    assert column(tab, 1)
    assert all("undertrained" in text for text in column(tab, 12))
    tab.value("document.querySelector('form[data-for=board] button[type=reset]').click()")
    tab.value("new Promise((done) => setTimeout(done, 20))")
    assert column(tab, 1) == every


def test_the_tables_are_narrowed_to_an_outcome(tab):
    choose(tab, "#cell-filter select", "reproduced")
    words = tab.value("[...document.querySelectorAll('.paper tr[data-word]:not([hidden])')].map((row) => row.dataset.word)")
    assert set(words) == {"reproduced"}
    assert tab.value("document.querySelector('#cell-filter output').textContent") == f"{len(words)} cells and claims"
    choose(tab, "#cell-filter select", "")
    assert tab.value("document.querySelectorAll('.paper tr[hidden], .paper article[hidden]').length") == 0


def test_a_paper_that_the_filter_hides_is_shown_where_a_link_leads_to_it(tab):
    hidden = "[...document.querySelectorAll('.paper[hidden]')].map((section) => section.id)"
    tab.value("location.hash = ''")
    choose(tab, "#cell-filter select", "undertrained")
    away = tab.value(hidden)
    assert away
    tab.value(f"location.hash = '#{away[0]}'")
    tab.value("new Promise((done) => setTimeout(done, 50))")
    assert tab.value(hidden) == []
    assert tab.messages == []


# ---- reasons


def test_the_reason_is_shown_on_hover_and_put_away_by_escape(tab):
    tab.point("#condensing .why.wait")
    shown, inside, said = tip(tab, "document.querySelector('#condensing .why.wait + .tip')")
    assert (shown, inside) == (True, True)
    assert "plateau" in said
    assert "seeds 0-2 on desk" in said.replace(" · ", " ")
    assert "leandet rerun --row condensing." in said
    tab.press("Escape", code=27)
    assert tip(tab, "document.querySelector('#condensing .why.wait + .tip')")[0] is False


def test_every_reason_can_be_reached_by_keyboard(tab):
    tab.value("document.querySelectorAll('#condensing thead .sort')[5].focus()")
    tab.press("Tab", code=9)
    assert tab.value("document.activeElement.classList.contains('why')")
    shown, inside, said = tip(tab)
    assert (shown, inside) == (True, True)
    assert len(said) > 20
    assert tab.value("document.activeElement.getAttribute('aria-describedby') === document.activeElement.nextElementSibling.id")
    assert tab.value(
        "[...document.querySelectorAll('.outcomes tbody tr')].every((row) => row.querySelector('button.why + .tip').textContent.length > 3)"
    )


def test_a_point_of_a_plot_has_its_words_by_keyboard_too(tab):
    words = tab.value("[...document.querySelectorAll('#trade-offs .pt')].map((point) => point.getAttribute('aria-label'))")
    assert len(words) == 2 * 4  # parameters and multiply-adds of three rows at the proxy tier and one at the real tier
    assert any("mean of 3 seeds, 95 % interval" in said and "the reference of other rows" in said for said in words)
    assert any("one seed, no interval" in said for said in words)
    tab.value("document.querySelector('.pt').focus()")
    shown, inside, said = tip(tab, "document.querySelector('#float')")
    assert (shown, inside, said) == (True, True, words[0])


def test_what_beats_what_and_the_curves_stand_there_with_their_intervals(tab):
    """A Pareto plot each of bytes and multiply-adds, both with the three rows that keep half; the curve has all four, each read out whole."""
    said = tab.value("[...document.querySelectorAll('#pareto .pt')].map((point) => point.getAttribute('aria-label'))")
    assert len(said) == 2 * 3
    assert (
        "compression.both-50: AP 45.00 [44.00, 46.00], 2 GMAC; undecided, may be beaten by compression.dense +15.00 [+14.70, +15.30], 1 seed" in said
    )
    assert tab.value("document.querySelectorAll('#pareto .pt.beaten').length") == 1  # zeros save no multiply-adds; of bytes they have fewer
    assert tab.value("document.querySelectorAll('#pareto .pt.undecided').length") == 1
    looks = tab.value("['front', 'undecided', 'beaten'].map((kind) => getComputedStyle(document.querySelector(`.kinds .${kind}`)).color)")
    assert len(set(looks)) == 3
    marks = tab.value("['.undecided', '.beaten'].map((kind) => getComputedStyle(document.querySelector(`#pareto .pt${kind}`)).color)")
    assert marks == looks[1:]  # the legend has the colours of the plots
    table = tab.value("[...document.querySelectorAll('#pareto tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))")
    assert [row[8] for row in table] == ["2", "1.5 (no kernel)", "1 (no kernel)", "0.5 (no kernel)"]
    curve = tab.value("[...document.querySelectorAll('#compression .sweeps .pt')].map((point) => point.getAttribute('aria-label'))")
    assert len(curve) == 4
    assert "compression.both-30, weights, 30: AP 59.50 [58.50, 60.50], 5 seeds; to compression.dense -0.50 [-0.80, -0.20]" in curve
    assert "collapsed at 90: 1.7 % of the accuracy is left" in tab.value("document.querySelector('#compression .sweeps ul').textContent")
    assert tab.value("[...document.querySelectorAll('.sweeps polyline')].every((line) => getComputedStyle(line).fill === 'none')")


# ---- windows


@pytest.mark.parametrize("width", [320, 375, 768])
@pytest.mark.parametrize("name", [STANDINGS, RECORDS])
def test_no_window_makes_the_page_scroll_sideways(browser, folder, name, width):
    browser.open(folder / name, width=width, height=800, touch=width < 700)
    browser.value("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("innerWidth") == width  # a phone zooms out where something is wider
    boxes = browser.value("[...document.querySelectorAll('.box')].map((box) => [box.scrollWidth > box.clientWidth, getComputedStyle(box).overflowX])")
    assert all(style == "auto" for _, style in boxes)
    assert any(wide for wide, _ in boxes)


def test_a_tap_shows_a_reason_within_the_phone(browser, file):
    browser.open(file, width=375, height=800, touch=True)
    browser.value("document.querySelector('#condensing .why').scrollIntoView({block: 'center', inline: 'center'})")
    browser.value("document.querySelector('#condensing .why').click()")
    assert tip(browser)[:2] == [True, True]


CONTRAST = """(() => {
  const shares = [0.2126, 0.7152, 0.0722];
  const linear = (part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const light = (text) => text.match(/[\\d.]+/g).slice(0, 3).reduce((sum, part, place) => sum + shares[place] * linear(part / 255), 0);
  const under = (node) => {
    while (node && getComputedStyle(node).backgroundColor.startsWith('rgba(0, 0, 0, 0')) node = node.parentElement;
    return node ? getComputedStyle(node).backgroundColor : 'rgb(255, 255, 255)';
  };
  const ratio = (node) => {
    const [less, more] = [light(getComputedStyle(node).color), light(under(node))].sort((x, y) => x - y);
    return (more + 0.05) / (less + 0.05);
  };
  const texts = 'h1, .lead, .note, small, td, tbody th:not(.same), thead button, .why, nav a, .chips span, .tip b';
  return [...document.querySelectorAll(texts)].map((node) => [node.textContent.slice(0, 20), ratio(node)]).filter(([, value]) => value < 4.5);
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(browser, file, scheme):
    browser.open(file, scheme=scheme)
    assert browser.value(CONTRAST) == []
    dark = browser.value("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark is (scheme == "dark")


def test_outcomes_differ_by_word_and_sign_not_by_colour_alone(tab):
    said = tab.value("[...document.querySelectorAll('#condensing .why')].map((why) => [why.querySelector('i').textContent, why.textContent])")
    signs = {word.split("proxy")[0].replace(sign, "").strip(): sign for sign, word in said}
    assert len(signs) > 2
    assert len(set(signs.values())) == len(signs)


def test_without_scripts_everything_is_there_but_the_controls(browser, file):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(file)
        browser.call("DOM.enable")
        root = browser.call("DOM.getDocument")["root"]["nodeId"]
        found = {}
        for name, selector in (("filters", ".filters"), ("why", "#condensing .why"), ("row", "#board tbody tr")):
            node = browser.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
            browser.call("CSS.enable")
            styles = browser.call("CSS.getComputedStyleForNode", nodeId=node)["computedStyle"]
            found[name] = next(each["value"] for each in styles if each["name"] == "display")
        assert found == {"filters": "none", "why": "inline-block", "row": "table-row"}
        why = browser.call("DOM.querySelector", nodeId=root, selector="#condensing .why")["nodeId"]
        tip_node = browser.call("DOM.querySelector", nodeId=root, selector="#condensing .why + .tip")["nodeId"]
        browser.call("DOM.focus", nodeId=why)
        styles = browser.call("CSS.getComputedStyleForNode", nodeId=tip_node)["computedStyle"]
        assert next(each["value"] for each in styles if each["name"] == "display") == "block"
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
