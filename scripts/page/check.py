#!/usr/bin/env python3
"""Checks the page of `peft-bench report --format html` in a real browser.

    scripts/page/check.py                               # with a result that is measured for it (a minute)
    scripts/page/check.py results/lora--….json          # with variations of this one
    scripts/page/check.py --page page.html              # only what every page must fulfil
    scripts/page/check.py --shots folder results/…      # and keeps pictures of it

It wants Chromium (Debian: `apt-get install chromium`), and says so and ends well where there is none. What drives it is installed
into an environment that is thrown away, unless `--environment FOLDER` names one to keep.
"""

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from html.parser import HTMLParser
from pathlib import Path

import vary

ROOT = Path(__file__).resolve().parents[2]
PLAYWRIGHT = "playwright==1.56.0"
RESULTS = 60
MOST_BYTES = 3_000_000
MOST_MILLISECONDS = 1000
WIDTHS = (1400, 900, 390)
# Text on what it stands on, by the names of the style sheet's colours.
TEXTS = (("text", "page"), ("quiet", "page"), ("quiet", "panel"), ("accent", "page"), ("text", "chosen"), ("accent", "chosen"),
         ("warn", "warn-page"), ("bad", "bad-page"))
MARKS = (("base", "page"), ("merged", "page"), ("unmerged", "page"), ("other", "page"))


class Checks:
    """What was checked, and what came of it."""

    def __init__(self):
        self.failed = 0

    def that(self, what, holds, found=None):
        self.failed += not holds
        print(f"{'ok    ' if holds else 'FAILED'}  {what}{'' if holds or found is None else f': {found}'}", flush=True)


def chromium():
    names = [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    return next((path for path in map(shutil.which, filter(None, names)) if path), None)


def in_environment(folder):
    """Runs this script again, with Playwright's package, in the environment `folder`."""
    python = Path(folder) / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PLAYWRIGHT], check=True)
    return subprocess.run([python, *sys.argv], env={**os.environ, "PAGE_CHECK": "inside"}).returncode


def run(*command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def measured(program, folder):
    """A result that is measured now."""
    run(program, "measure", ROOT / "experiments/lora/lora_r8", "--output", folder)
    return next(Path(folder).glob("*.json"))


class Page:
    """One opened page, and everything that it said or asked for."""

    def __init__(self, browser, address, **context):
        self.context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **context})
        self.tab = self.context.new_page()
        self.said, self.asked, self.dialogs = [], [], []
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.tab.goto(address)

    def ready(self):
        """Waits until the page is drawn; milliseconds from the opening until then."""
        self.tab.wait_for_selector("html[data-ready]", timeout=20_000)
        return self.tab.evaluate("Number(document.documentElement.dataset.ready)")

    def column(self, key):
        """The texts of one column of the table, from top to bottom."""
        return self.tab.evaluate(
            """key => {
                const heads = [...document.querySelectorAll('#table thead tr:first-child th')];
                let index = 0;
                for (const head of heads) {
                    if (head.dataset.key === key) break;
                    index += head.colSpan;
                }
                return [...document.querySelectorAll('#table tbody tr')].map(row => row.children[index]?.textContent ?? '');
            }""", key)

    def rows(self):
        return self.tab.locator("#table tbody tr").count()

    def fragment(self):
        return self.tab.evaluate("location.hash")

    def close(self):
        self.context.close()


def number(text):
    """The number that a cell begins with; none for a dash."""
    found = re.match("[+\u2212]?[0-9\u202f]+(\\.[0-9]+)?", text)
    return float(found[0].replace("\u2212", "-").replace("\u202f", "")) if found else None


def luminance(colour):
    parts = [int(colour[at:at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


class References(HTMLParser):
    """Whatever a page's markup refers to outside of it."""

    def __init__(self):
        super().__init__()
        self.outside = []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            refers = name in ("src", "href", "action", "srcset", "style") or name.startswith("on")
            if refers and not value.startswith(("#", "data:")):
                self.outside.append((tag, name, value))


def check_file(checks, path):
    text = path.read_text()
    checks.that(f"the file is smaller than {MOST_BYTES / 1e6:.0f} MB", len(text.encode()) < MOST_BYTES, len(text.encode()))
    references = References()
    references.feed(text)
    checks.that("it refers to nothing outside of itself", not references.outside, references.outside)
    checks.that("its policy lets nothing be loaded", "default-src 'none'" in text)


def check_opening(checks, browser, address):
    times = []
    for _ in range(3):
        page = Page(browser, address)
        times.append(page.ready())
        checks.that("no error and no message on the console", not page.said, page.said)
        checks.that("no request but for the file itself", page.asked == [address], page.asked)
        page.close()
    checks.that(f"it opens within {MOST_MILLISECONDS} ms (best of 3: {min(times):.0f})", min(times) < MOST_MILLISECONDS, times)


def check_table(checks, browser, address):
    page = Page(browser, address)
    page.ready()
    tab = page.tab
    head = tab.locator('#table th[data-key="overhead_pct"]')
    for way in ("ascending", "descending"):
        head.locator("button").click()
        values = [number(text) for text in page.column("overhead_pct")]
        known = [value for value in values if value is not None]
        expected = sorted(known, reverse=way == "descending")
        checks.that(f"overheads are sorted, {way}", len(known) > 5 and known == expected, known[:9])
        checks.that("rows without one come last", values[:len(known)] == known)
        checks.that(f"`aria-sort` is {way}", head.get_attribute("aria-sort") == way)
    head.locator("button").focus()
    tab.keyboard.press("Enter")
    checks.that("sorting answers to the keyboard", head.get_attribute("aria-sort") == "none")
    about = tab.locator("#tip")
    checks.that("and says what the column means", about.is_visible() and "95 % interval" in about.text_content())
    focused = tab.evaluate("document.activeElement.closest('th')?.dataset.key")
    checks.that("the heading keeps the focus", focused == "overhead_pct", focused)

    every = page.rows()
    tab.fill("#search", "vera")
    found = page.rows()
    checks.that("free text filters rows", 0 < found < every and all("vera" in name for name in page.column("experiment")), found)
    checks.that("the status says how many", tab.locator('[role="status"]').text_content().startswith(f"{found} of"))
    tab.fill("#search", "")
    methods = tab.locator("#method option").all_text_contents()
    tab.select_option("#method", methods[1])
    checks.that("a method filters rows", 0 < page.rows() < every and set(page.column("method")) == {methods[1]})
    tab.select_option("#method", "")
    tab.click("#filters")
    box = tab.get_by_label("Filter overhead", exact=True)
    box.fill("< 5")
    values = [number(text) for text in page.column("overhead_pct")]
    # As they're rounded.
    checks.that("a column's filter keeps what passes it", 0 < len(values) < every and all(value <= 5 for value in values), values)
    box.fill("five")
    checks.that("a filter that can't be read is marked", box.get_attribute("aria-invalid") == "true")
    box.fill("")
    tab.locator("summary", has_text="Columns and what they mean").click()
    before = tab.locator("#table thead tr:first-child th").count()
    tab.locator('.chooser input[value="decode_p90"]').click()
    checks.that("a column can be switched on", tab.locator("#table thead tr:first-child th").count() == before + 1)
    about = tab.locator(".chooser li").all_text_contents()
    checks.that("each column says what it means", len(about) > before and all(len(text) > 15 for text in about))
    checks.that("nothing of this made an error", not page.said, page.said)
    page.close()


def check_plots(checks, browser, address):
    page = Page(browser, address)
    page.ready()
    tab = page.tab
    for name, least in (("#overheads svg .whisker", 20), ("#scatter svg [data-row]", 20), ("#detail svg .area", 4), ("#detail svg .bar", 10)):
        drawn = tab.locator(name).count()
        checks.that(f"{name} is drawn", drawn >= least, drawn)
    # Of parameters, which vary freely; of memory, one point may beat all others.
    tab.select_option("#axis-x", "trainable_params")
    checks.that("there is a Pareto front", tab.locator("#scatter figure svg .front").count() == 1)
    other = tab.locator("#axis-x option").nth(0).get_attribute("value")
    tab.select_option("#axis-x", other)
    label = tab.locator("#axis-x option:checked").text_content()
    texts = tab.locator("#scatter figure svg text").all_text_contents()
    checks.that("another axis can be chosen", label in texts, texts[:20])
    checks.that("and the address keeps it", f"x={other}" in page.fragment(), page.fragment())
    tab.locator("#overheads figure svg [data-row]").last.click()
    title = tab.locator("#detail-title").text_content()
    checks.that("a mark shows its result's details", "result=" in page.fragment(), title)
    checks.that("nothing of this made an error", not page.said, page.said)
    page.close()


def background(page):
    return page.tab.evaluate("getComputedStyle(document.body).backgroundColor")


def check_colours(checks, browser, address):
    light, dark = "rgb(255, 255, 255)", "rgb(21, 23, 26)"
    page = Page(browser, address, color_scheme="dark")
    page.ready()
    checks.that("it is dark where the system is", background(page) == dark, background(page))
    for theme, expected in (("light", light), ("dark", dark)):
        page.tab.click(f'#theme button:text-is("{theme}")')
        checks.that(f"the switch makes it {theme}", background(page) == expected and f"theme={theme}" in page.fragment())
        read = "names => names.map(name => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim())"
        for pairs, least in ((TEXTS, 4.5), (MARKS, 3.0)):
            weak = [(pair, round(found, 2)) for pair in pairs if (found := contrast(*page.tab.evaluate(read, list(pair)))) < least]
            checks.that(f"contrast is at least {least} in {theme}", not weak, weak)
    page.close()


def check_link(checks, browser, address):
    page = Page(browser, address)
    page.ready()
    tab = page.tab
    tab.locator('#table th[data-key="peak_memory_mb"] button').click()
    tab.fill("#search", "r")
    tab.select_option("#axis-y", "trainable_params")
    tab.locator("label", has_text="logarithmic y").locator("input").click()
    tab.click('#theme button:text-is("dark")')
    tab.locator('#overheads button:text-is("short")').click()
    tab.locator("#table tbody tr").nth(3).locator("button").click()
    view = "() => ['#table', '#overheads', '#scatter', '#detail'].map(name => document.querySelector(name).textContent)"
    before, link = tab.evaluate(view), address + page.fragment()
    page.close()
    again = Page(browser, link)
    again.ready()
    checks.that("a link shows the same view", again.tab.evaluate(view) == before, link.rpartition("#")[2])
    checks.that("in the same colours", background(again) == "rgb(21, 23, 26)")
    again.tab.evaluate("location.hash = '#sort=-experiment'")
    again.tab.wait_for_function("document.querySelector('#table th[data-key=\"experiment\"]').ariaSort === 'descending'")
    checks.that("the page follows its address", not again.said, again.said)
    again.close()
    hostile = Page(browser, address + "#sort=%3Cimg%20src=x%3E&x=constructor&group=-1&result=__proto__&where.experiment=%3Cb%3E&columns=x")
    hostile.ready()
    checks.that("nonsense in the address does no harm", not hostile.said and not hostile.dialogs, hostile.said)
    hostile.close()


def walk(page, every=1):
    """Shows the details of results of all groups; what of the text looks like a mistake of the script."""
    tab, odd = page.tab, []
    groups = max(1, tab.locator(".groups button").count())
    for index in range(groups):
        if groups > 1:
            tab.locator(".groups button").nth(index).click()
        for row in range(0, page.rows(), every):
            button = tab.locator("#table tbody tr").nth(row).locator("button")
            name = button.text_content()
            button.click()
            left = re.findall(r".*(?:\b(?:null|undefined|NaN|Infinity)\b|\[object).*", tab.locator("#app").inner_text())
            odd += [(name, text) for text in left]
    return odd


def check_every_version(checks, browser, program, folder):
    """Results as each version of the program wrote them."""
    path = folder / "versions.html"
    fixtures = sorted((ROOT / "tests/fixtures/results").glob("*/*.json"))
    run(program, "report", *fixtures, "--format", "html", "--output", path)
    page = Page(browser, path.resolve().as_uri())
    page.ready()
    odd = walk(page)
    checks.that("results of every version are shown", len(fixtures) > 5 and not odd and not page.said, (odd, page.said))
    page.close()


def check_hostile(checks, browser, address):
    page = Page(browser, address)
    page.ready()
    tab = page.tab
    checks.that("a name that looks like markup is text", vary.HOSTILE_NAME in " ".join(page.column("experiment")))
    groups = tab.locator(".groups button").count()
    checks.that("results of other machines and dtypes stand in groups of their own", groups == 3, groups)
    odd = walk(page, every=3)
    checks.that("no text is left over from the script", not odd, odd)
    hacked = tab.evaluate("window.hacked ?? null")
    foreign = tab.locator("#app img, #app script, #app b, #static img, #static script").count()
    checks.that("and does nothing, wherever it stands", hacked is None and not page.dialogs and foreign == 0, (hacked, foreign))
    checks.that("nothing of this made an error or a request", not page.said and page.asked == [address], page.said)
    page.close()


def check_without_script(checks, browser, address):
    page = Page(browser, address, java_script_enabled=False)
    tab = page.tab
    rows = tab.locator("#static table.results tbody tr").count()
    checks.that("without JavaScript there is a table", rows >= RESULTS, rows)
    text = tab.locator("#static").inner_text()
    for word in ("Processor", "ONNX Runtime", "parity failed", "disturbed", "fresh adapter", "What the columns mean"):
        checks.that(f"and it says `{word}`", word.lower() in text.lower())
    checks.that("names are text there, too", vary.HOSTILE_NAME in text)
    page.close()


def check_widths(checks, browser, address, shots):
    for width in WIDTHS:
        for theme in ("light", "dark"):
            page = Page(browser, address, viewport={"width": width, "height": 900}, color_scheme=theme)
            page.ready()
            needed = page.tab.evaluate("document.documentElement.scrollWidth")
            checks.that(f"{width} pixels are enough ({theme})", needed <= width, needed)
            if shots:
                page.tab.screenshot(path=str(Path(shots) / f"{width}-{theme}.png"), full_page=True)
            page.close()


def check_quality(checks, browser, program, template, results, folder, shots):
    """Published quality beside cost."""
    published, path = folder / "published.json", folder / "quality.html"
    vary.make_published(template, published)
    run(program, "report", results, "--quality", published, "--quality-model", "made/up", "--output", path)
    address = path.resolve().as_uri()
    page = Page(browser, address)
    page.ready()
    tab = page.tab
    heads = tab.locator("#table thead tr:first-child th")
    keys = [heads.nth(index).get_attribute("data-key") for index in range(heads.count())]
    checks.that("quality is a column, before the costs", keys[2:5] == ["variant", "quality", "overhead_pct"], keys)
    values = [number(text) for text in page.column("quality")]
    checks.that("most rows have it", sum(value is not None for value in values) > RESULTS, values[:9])
    chosen = [tab.locator(f"#axis-{axis} option:checked").get_attribute("value") for axis in "yx"]
    checks.that("it's plotted against overheads", chosen == ["quality", "overhead_pct"], chosen)
    whiskers = tab.locator("#scatter figure svg .whisker").evaluate_all(
        "all => all.filter(one => one.getAttribute('x1') === one.getAttribute('x2')).length")
    checks.that("accuracies have intervals", whiskers > 20, whiskers)
    tip = tab.locator("#scatter figure svg [data-row]").first.get_attribute("data-tip")
    checks.that("a mark says what its quality was published of", "/made-up, configuration equal, of made/up" in tip, tip)
    for key in ("time_per_token", "peak_memory_mb", "adapter_size_mb", "trainable_params"):
        tab.select_option("#axis-x", key)
        about = tab.locator("#scatter figcaption").text_content()
        checks.that(f"there is a front of quality against {key}", about.startswith("Pareto front of") and "95 %" in about, about)
    about = tab.locator("#detail").inner_text()
    checks.that("details say what it is", "Published quality" in about and "configuration equal" in about)
    checks.that("nothing of this made an error", not page.said, page.said)
    page.close()
    check_widths(checks, browser, address, shots and Path(shots) / "quality")


def embedded(path):
    packed = re.search(r'id="data">([^<]*)<', path.read_text())[1]
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def check_round_trip(checks, program, results, path):
    from_files = run(program, "report", results, results / "failed")
    from_page = run(program, "report", path)
    checks.that("`report` shows the same of the page as of the files", from_files == from_page and from_files)


def check_page(checks, browser, path, shots):
    address = path.resolve().as_uri()
    check_file(checks, path)
    check_opening(checks, browser, address)
    check_widths(checks, browser, address, shots)
    check_colours(checks, browser, address)


def check_with_variations(checks, browser, program, template, folder, shots):
    results = folder / "results"
    vary.make_results(template, results, RESULTS)
    path = folder / "page.html"
    run(program, "report", results, results / "failed", "--format", "html", "--output", path)
    address = path.resolve().as_uri()
    check_page(checks, browser, path, shots)
    checks.that(f"all {RESULTS} results are inside", len(embedded(path)["results"]) == RESULTS)
    for check in (check_table, check_plots, check_link, check_hostile, check_without_script):
        check(checks, browser, address)
    check_round_trip(checks, program, results, path)
    check_quality(checks, browser, program, template, results, folder, shots)
    check_every_version(checks, browser, program, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", nargs="?", type=Path, help="a result with all three categories of prompts")
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/peft-bench")
    parser.add_argument("--page", type=Path, help="check this page alone")
    parser.add_argument("--shots", type=Path, help="a folder for pictures of the page")
    parser.add_argument("--environment", type=Path, help="a virtual environment to keep")
    given = parser.parse_args()
    browser = chromium()
    if browser is None:
        print("skipped: there is no Chromium here")
        return 0
    if os.environ.get("PAGE_CHECK") != "inside":
        if given.environment:
            return in_environment(given.environment)
        with tempfile.TemporaryDirectory() as folder:
            return in_environment(folder)

    from playwright.sync_api import sync_playwright

    if given.shots:
        given.shots.mkdir(parents=True, exist_ok=True)
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        folder = Path(folder)
        # Chromium's own sandbox can't be had in most containers, and the page is our own.
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        if given.page:
            check_page(checks, opened, given.page, given.shots)
        else:
            template = given.result or measured(given.program, folder / "measured")
            check_with_variations(checks, opened, given.program, template, folder, given.shots)
        opened.close()
    print(f"{checks.failed} checks failed" if checks.failed else "all checks passed")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
