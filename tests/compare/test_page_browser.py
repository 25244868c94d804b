"""The page in a browser: headings sort, filters hide, rows open, nothing is loaded, and a phone shows it all."""

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from report_cases import make_results

from tokenmix.compare.page import write_page

pytest.importorskip("selenium", reason="needs selenium: pip install selenium")

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs a browser: apt-get install chromium chromium-driver"
)
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"),
    *("--no-first-run", "--disable-component-update", "--disable-sync", "--window-size=1400,1000"),
)
LONG = "hybrid_of_mamba2_and_attention_in_turn_with_a_name_that_no_phone_shows_in_a_line"


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(make_results()).replace("hybrid", LONG))
    return made


@pytest.fixture(scope="module")
def address(results: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_page(results, tmp_path_factory.mktemp("page") / "index.html").as_uri()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=Service(str(DRIVER))) as started:
        yield started


@pytest.fixture
def browser(driver: webdriver.Chrome, address: str) -> Iterator[webdriver.Chrome]:
    """The page, freshly loaded; afterwards, the browser must not have complained."""
    driver.get_log("browser")
    driver.get_log("performance")
    driver.get(address)
    wait(driver, lambda d: d.execute_script("return document.readyState") == "complete")
    yield driver
    assert driver.get_log("browser") == []


def wait(browser: webdriver.Chrome, condition: Callable[[webdriver.Chrome], Any]) -> Any:
    return WebDriverWait(browser, 10).until(condition)


def shown(browser: webdriver.Chrome, section: str) -> list[WebElement]:
    return [
        row
        for row in browser.find_elements(By.CSS_SELECTOR, f"#{section} .filters + .frame > table > tbody")
        if row.is_displayed()
    ]


def column(browser: webdriver.Chrome, section: str, place: int) -> list[str]:
    script = """return [...document.querySelector(`#${arguments[0]} table.sortable`).tBodies].map(
        (record) => record.rows[0].cells[arguments[1]]?.textContent.trim() ?? "")"""
    return browser.execute_script(script, section, place)


def heading(browser: webdriver.Chrome, section: str, place: int) -> tuple[WebElement, WebElement]:
    cell = browser.find_elements(By.CSS_SELECTOR, f"#{section} table.sortable thead")[0].find_elements(
        By.TAG_NAME, "th"
    )[place]
    return cell, cell.find_element(By.TAG_NAME, "button")


def test_numbers_sort_as_numbers(browser: webdriver.Chrome) -> None:
    cell, button = heading(browser, "costs", 1)
    tokens = column(browser, "costs", 1)
    assert tokens != sorted(tokens, key=lambda x: int(x.replace(",", "")))
    button.click()
    wait(browser, lambda _: cell.get_attribute("aria-sort") == "ascending")
    numbers = [int(x.replace(",", "")) for x in column(browser, "costs", 1)]
    assert numbers == sorted(numbers)
    assert sorted(map(str, numbers)) != [str(x) for x in numbers]  # text would sort otherwise
    button.click()
    wait(browser, lambda _: cell.get_attribute("aria-sort") == "descending")
    assert [int(x.replace(",", "")) for x in column(browser, "costs", 1)] == numbers[::-1]
    assert browser.find_elements(By.CSS_SELECTOR, "#costs [aria-sort]") == [cell]


def test_units_do_not_mislead_and_unknown_ones_stay_last(browser: webdriver.Chrome) -> None:
    scale = {"kB": 1e3, "MB": 1e6}
    cell, button = heading(browser, "costs", 3)
    for direction in ("ascending", "descending"):
        button.click()
        wait(browser, lambda _, wanted=direction: cell.get_attribute("aria-sort") == wanted)
        states = column(browser, "costs", 3)
        assert states[-1] == ""  # the row that failed
        sizes = [float(number) * scale[unit] for number, unit in (state.split() for state in states[:-1])]
        assert sizes == sorted(sizes, reverse=direction == "descending")


def test_text_sorts_with_the_keyboard_and_details_stay_with_their_rows(browser: webdriver.Chrome) -> None:
    cell, button = heading(browser, "results", 1)
    button.send_keys(Keys.ENTER)
    wait(browser, lambda _: cell.get_attribute("aria-sort") == "ascending")
    names = column(browser, "results", 1)
    assert names == sorted(names, key=str.lower)
    for record in browser.find_elements(By.CSS_SELECTOR, "#results tbody.result"):
        task, stack = record.get_attribute("data-task"), record.get_attribute("data-stack")
        summary = record.find_element(By.TAG_NAME, "summary").get_attribute("textContent")
        assert summary == f"9 runs of {stack} on {task}"


def test_filters_hide_rows(browser: webdriver.Chrome) -> None:
    everything = len(shown(browser, "results"))
    box = browser.find_element(By.CSS_SELECTOR, "#results input[type=search]")
    box.send_keys("SLIDING rec")
    wait(browser, lambda d: len(shown(d, "results")) == 1)
    assert shown(browser, "results")[0].get_attribute("data-stack") == "sliding window"
    assert browser.find_element(By.CSS_SELECTOR, "#results output").text == f"1 of {everything} rows"
    box.clear()
    box.send_keys(" ")
    wait(browser, lambda d: len(shown(d, "results")) == everything)
    task, stack = browser.find_elements(By.CSS_SELECTOR, "#results select")
    task.send_keys("text")
    wait(browser, lambda d: {row.get_attribute("data-task") for row in shown(d, "results")} == {"text"})
    stack.send_keys("hybrid")
    wait(browser, lambda d: len(shown(d, "results")) == 4)  # the stack, and the task's three references
    tokens = browser.find_elements(By.CSS_SELECTOR, "#costs select")[1]
    tokens.send_keys("512")
    wait(browser, lambda d: len(shown(d, "costs")) == 4)


def test_rows_open_to_their_runs(browser: webdriver.Chrome) -> None:
    record = browser.find_element(By.CSS_SELECTOR, "#results tbody[data-stack=mamba2]")
    button = record.find_element(By.CSS_SELECTOR, "button.more")
    command = record.find_element(By.CSS_SELECTOR, "code.command")
    assert not command.is_displayed()
    record.find_element(By.CSS_SELECTOR, "td.score").click()
    wait(browser, lambda _: command.is_displayed())
    assert button.get_attribute("aria-expanded") == "true"
    assert command.text == "tokenmix compare demo --output runs/compare/demo --only 'recall/mamba2/0.01/0'"
    assert '"state_size": 64' in record.find_element(By.TAG_NAME, "pre").text
    record.find_element(By.CSS_SELECTOR, "button.copy").click()
    wait(browser, lambda _: record.find_element(By.CSS_SELECTOR, "button.copy").text != "copy")
    button.send_keys(Keys.ENTER)
    wait(browser, lambda _: not command.is_displayed())
    assert button.get_attribute("aria-expanded") == "false"


def test_the_download_is_the_results(browser: webdriver.Chrome, results: dict[str, Any]) -> None:
    link = browser.find_element(By.CSS_SELECTOR, "a.download")
    assert link.get_attribute("download") == "results.json"
    inside = browser.find_element(By.ID, "data").get_attribute("textContent")
    assert json.loads(str(inside)) == results
    assert str(link.get_attribute("href")).startswith("blob:")


def test_nothing_is_loaded(browser: webdriver.Chrome, address: str) -> None:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert address in asked
    assert all(url == address or url.startswith("data:") for url in asked)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_schemes(browser: webdriver.Chrome, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"

    def lightness(selector: str, kind: str) -> float:
        colour = browser.execute_script(style, selector, kind)
        return sum(map(int, colour[colour.index("(") + 1 : -1].split(",")[:3])) / 765

    paper = lightness("body", "backgroundColor")
    assert (paper > 0.9) if scheme == "light" else (paper < 0.2)
    for selector, kind in (
        ("body", "color"),
        ("#plots figure text", "fill"),
        (".note", "color"),
        (".verdict.good", "color"),
    ):
        assert abs(lightness(selector, kind) - paper) > 0.4


def test_a_phone_scrolls_in_one_direction(browser: webdriver.Chrome) -> None:
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.execute_script("for (const button of document.querySelectorAll('button.more')) button.click()")
        browser.execute_script("for (const fold of document.querySelectorAll('details')) fold.open = true")
        width, view = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert width == view == 400
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_without_scripts(browser: webdriver.Chrome, address: str) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(address)
        record = browser.find_element(By.CSS_SELECTOR, "#results tbody[data-stack=mamba2]")
        summary = record.find_element(By.TAG_NAME, "summary")
        assert summary.is_displayed()
        summary.click()
        assert record.find_element(By.CSS_SELECTOR, "code.command").is_displayed()
        assert not browser.find_element(By.CSS_SELECTOR, ".filters").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
