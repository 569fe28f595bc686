# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report in a real browser: what is shown, filtered, sorted, read aloud, printed, and what is refused."""

from __future__ import annotations

import pathlib
import typing as t

import axe_core_python
import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import Browser, write_page
from tests.tools import sample_jobs

AXE = (pathlib.Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
#: What a guest or a user may have chosen. Each would set ``window.hostile`` if it were taken for markup.
HOSTILE = (
    "<script>window.hostile=1</script>",
    "<img src=x onerror=window.hostile=1>",
    "</pre></details></style></script><svg onload=window.hostile=1>",
    '" onmouseover="window.hostile=1" x="',
    "javascript:window.hostile=1",
    "<!-- ]]> <![CDATA[",
)
TURNED = "invoice\u202egpj.exe \x1b[31mred\x07"

VISIBLE_ROWS = "return Array.from(document.querySelectorAll('#jobs tbody tr')).filter((row) => row.offsetParent).length"
NAMES = "return Array.from(document.querySelectorAll('#jobs tbody th')).map((cell) => cell.textContent)"


def hostile_job() -> sample_jobs.Job:
    """A recorded job in which everything that somebody else chooses is hostile."""
    job = sample_jobs.recorded()["db01-convert"]
    evil = " ".join([*HOSTILE, TURNED])
    job["metadata"]["name"] = evil
    job["spec"]["source"]["path"] = evil
    status = job["status"]
    found = status["result"]
    for error in (status["lastError"], status["attempts"][0]["error"]):
        error |= {"reason": evil, "message": evil, "suggestion": evil}
    found["rehearsal"] |= {"consoleTail": [evil], "message": evil, "marker": evil, "warnings": [evil]}
    found["warnings"] = [evil]
    for change in found["changes"]:
        change |= {"path": f"/{evil}", "why": evil, "fixer": evil, "diff": f"--- a\n+++ b\n-{evil}\n+{evil}\n"}
    found["guest"] |= {"prettyName": evil, "hostname": evil}
    found["artifacts"][-1]["path"] = f"../{evil}.png"
    status["stages"][0] |= {"name": evil, "detail": evil}
    return job


@pytest.mark.parametrize("size", ["three", "many"])
def test_the_page_says_nothing_to_console_or_network(
    chromium: Browser, size: str, request: pytest.FixtureRequest
) -> None:
    path: pathlib.Path = request.getfixturevalue(size)
    chromium.open(path)
    assert chromium.complaints() == []
    assert set(chromium.requests()) <= {path.as_uri(), "data:image/png;base64", "data:"}


def test_hostile_texts_are_texts(chromium: Browser, tmp_path: pathlib.Path) -> None:
    job = hostile_job()
    chromium.open(write_page(tmp_path / "hostile.html", [job], title=HOSTILE[0]))
    shown = chromium.run("return document.body.innerText")
    for text in HOSTILE:
        assert shown.count(text) >= 10
    assert "\u202e" not in shown
    assert "invoice⟨202E⟩gpj.exe ␛[31mred␇" in shown
    assert chromium.driver.title == HOSTILE[0]
    # Nothing of it became an element or ran.
    assert chromium.run("return document.querySelectorAll('script').length") == 1
    assert chromium.run("return document.querySelectorAll('[onload], [onerror], [onmouseover]').length") == 0
    assert chromium.run("return window.hostile") is None
    assert chromium.complaints() == []


def test_the_policy_refuses_what_is_not_the_reports_own(chromium: Browser, three: pathlib.Path) -> None:
    chromium.open(three)
    chromium.run("""
        window.refused = [];
        document.addEventListener("securitypolicyviolation", (event) => window.refused.push(event.effectiveDirective));
        for (const [name, code] of [["script", "window.hostile = 1"], ["style", "body { display: none }"]]) {
          const element = document.createElement(name);
          element.textContent = code;
          document.body.append(element);
        }
        document.body.append(Object.assign(document.createElement("img"), {src: "https://example.invalid/x.png"}));
        """)
    wanted = ["img-src", "script-src-elem", "style-src-elem"]
    refused = chromium.driver.execute_async_script(
        "const done = arguments[0]; const look = () => window.refused.length >= 3 ? done(window.refused)"
        " : requestAnimationFrame(look); look();"
    )
    assert sorted(refused) == wanted
    assert chromium.run("return window.hostile") is None
    assert chromium.run("return getComputedStyle(document.body).display") == "block"


def test_the_filter_finds_names_and_reasons(chromium: Browser, many: pathlib.Path) -> None:
    chromium.open(many)
    assert chromium.run(VISIBLE_ROWS) == 500
    find = chromium.driver.find_element("id", "find")
    find.send_keys("WEB04")
    assert chromium.run(NAMES + ".filter((name) => name.startsWith('web04'))") == ["web040-convert", "web048-convert"]
    assert chromium.run(VISIBLE_ROWS) == 2
    assert chromium.driver.find_element("id", "shown").text == "2 of 500 VMs shown"
    for selector in (".timeline tr[data-job]", "article[data-job]"):
        assert chromium.run(f"return document.querySelectorAll('{selector}:not([hidden])').length") == 2
    find.clear()
    # A word of the error alone, which no cell of the table has.
    find.send_keys("you need to load the kernel first")
    assert chromium.run(VISIBLE_ROWS) == 31


def test_outcomes_are_filtered_by_boxes(chromium: Browser, many: pathlib.Path) -> None:
    chromium.open(many)
    chromium.driver.find_element("css selector", "input[value=BOOTED]").click()
    assert chromium.run(VISIBLE_ROWS) == 500 - 382
    chromium.driver.find_element("css selector", "input[value=BOOTED]").send_keys(Keys.SPACE)
    assert chromium.run(VISIBLE_ROWS) == 500


def test_columns_sort_by_number_and_name_with_the_keyboard(chromium: Browser, many: pathlib.Path) -> None:
    chromium.open(many)
    buttons = chromium.driver.find_elements("css selector", "#jobs th button")
    read = next(button for button in buttons if button.text.startswith("Read"))
    values = "return Array.from(document.querySelectorAll('#jobs tbody tr')).map((row) => +row.cells[5].dataset.value)"
    read.send_keys(Keys.ENTER)
    assert chromium.run(values) == sorted(chromium.run(values))
    assert chromium.run("return document.querySelector('[aria-sort]').textContent") == "Read"
    read.send_keys(Keys.ENTER)
    assert chromium.run(values) == sorted(chromium.run(values), reverse=True)
    buttons[0].send_keys(Keys.SPACE)
    assert chromium.run(NAMES) == sorted(chromium.run(NAMES))


def test_a_link_opens_the_vms_section(chromium: Browser, many: pathlib.Path) -> None:
    chromium.open(many)
    link = chromium.driver.find_element("css selector", "#jobs tbody a")
    section = link.get_attribute("href").partition("#")[2]
    opened = f"return document.getElementById('{section}').closest('details').open"
    assert not chromium.run(opened)
    link.send_keys(Keys.ENTER)
    assert chromium.run(opened)
    chromium.open(many, part="#vm-7")
    assert chromium.run("return document.getElementById('vm-7').closest('details').open")


def test_the_first_tab_stop_skips_to_the_summary(chromium: Browser, three: pathlib.Path) -> None:
    chromium.open(three)
    chromium.driver.find_element("tag name", "body").send_keys(Keys.TAB)
    assert chromium.driver.switch_to.active_element.text == "Skip to the summary"
    chromium.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert chromium.run("return document.activeElement.id") == "summary"


def test_all_is_there_without_scripts(chromium: Browser, three: pathlib.Path) -> None:
    chromium.open(three, scripts=False)
    chromium.command("Emulation.setScriptExecutionDisabled", value=False)
    assert chromium.run(VISIBLE_ROWS) == 3
    assert chromium.run("return document.getElementById('controls').offsetParent") is None
    assert chromium.run("return document.querySelectorAll('button').length") == 0
    text = chromium.run("return document.body.innerText")
    assert "error: you need to load the kernel first." in text
    assert "GRUB_DISABLE_LINUX_UUID" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_complain_of(chromium: Browser, three: pathlib.Path, scheme: str) -> None:
    chromium.open(three, scheme)
    chromium.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    chromium.run(AXE)
    found: dict[str, t.Any] = chromium.driver.execute_async_script(
        "const done = arguments[0]; axe.run(document).then(done, (error) => done({error: String(error)}))"
    )
    told = [(one["id"], one["help"], one["nodes"][0]["html"][:200]) for one in found["violations"]]
    assert told == []
    # It did look.
    assert {"color-contrast", "html-has-lang", "region"} <= {one["id"] for one in found["passes"]}


def test_colours_follow_the_readers_system(chromium: Browser, three: pathlib.Path) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    chromium.open(three, "light")
    light = chromium.run(ground)
    chromium.open(three, "dark")
    assert (light, chromium.run(ground)) == ("rgb(255, 255, 255)", "rgb(20, 24, 29)")


def test_pictures_are_shown(chromium: Browser, three: pathlib.Path) -> None:
    chromium.open(three)
    widths = chromium.driver.execute_async_script(
        "const done = arguments[0]; const images = Array.from(document.images);"
        "images.forEach((image) => { image.loading = 'eager'; });"
        "Promise.all(images.map((image) => image.decode())).then(() => done(images.map((one) => one.naturalWidth)))"
    )
    assert widths == [720, 720]


def test_paper_has_all_but_what_is_closed(chromium: Browser, many: pathlib.Path) -> None:
    chromium.open(many)
    chromium.driver.find_element("css selector", "#jobs tbody a").send_keys(Keys.ENTER)
    chromium.command("Emulation.setEmulatedMedia", media="print")
    shown = "return Array.from(document.querySelectorAll(arguments[0])).filter((one) => one.offsetParent).length"
    assert chromium.run(shown, "article") == 1
    assert chromium.run(shown, "#jobs tbody tr") == 500
    assert chromium.run(shown, "#controls, nav") == 0
    tall = "const one = document.querySelector('.scrolled'); return one.scrollHeight - one.clientHeight"
    assert chromium.run(tall) == 0
    chromium.command("Emulation.setEmulatedMedia", media="")


def test_nothing_is_wider_than_a_telephone(chromium: Browser, three: pathlib.Path) -> None:
    chromium.open(three)
    chromium.command("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
    assert chromium.run("return document.documentElement.scrollWidth") <= 390
    chromium.command("Emulation.clearDeviceMetricsOverride")
