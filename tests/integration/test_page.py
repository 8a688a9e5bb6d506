"""The page in a real browser (Debian's ``chromium``), with a real bridge and with one of thousands of agents."""

import asyncio
import os
import re
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from bridge.settings import OpsSettings
from bridge.testing.brokers import Broker
from bridge.testing.simulator import Fault
from tests.support.ops import Pictured, fail, running, served
from tests.support.patience import patient

playwright = pytest.importorskip("playwright.async_api", reason="the page's tests need playwright (make test has it)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")
WIDTHS = (390, 820, 1440)
SEEN_WITHIN = patient(10_000)
expect = playwright.expect
expect.set_options(timeout=SEEN_WITHIN)


@pytest.fixture
async def browser() -> AsyncIterator[Any]:
    async with playwright.async_playwright() as driver:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        await browser.close()


async def open_page(browser: Any, url: str, **options: Any) -> tuple[Any, list[str]]:
    """The page, and a list that collects its errors and its requests to other hosts."""
    faults: list[str] = []
    page = await browser.new_page(**options)
    page.set_default_timeout(SEEN_WITHIN)
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(url) else faults.append(request.url))
    await page.goto(url)
    await expect(page.locator("#live")).to_have_text("live")
    return page, faults


async def agents_shown(page: Any) -> list[str]:
    return list(await page.locator("#rows tr td:first-child").all_inner_texts())


@pytest.mark.kafka
async def test_watching_a_bridge(browser: Any, broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """The page of a working bridge says that it is ready, and updates; an agent whose token is refused is shown as sick
    with what to do, and no token reaches the browser.
    """
    async with running(broker, topics_prefix, tmp_path, 30) as (url, simulator):
        page, faults = await open_page(browser, url)
        bodies: list[str] = []
        page.on("response", lambda answer: asyncio.ensure_future(keep(answer, bodies)))
        await expect(page.locator("#agents-total")).to_have_text("30")
        await expect(page.locator("#polls")).to_have_text(re.compile("^[1-9]"), timeout=patient(20_000))
        # On a busy machine polls may be late, which is a notice: only a bridge of no broker is exactly "Ready".
        await expect(page.locator("#verdict-title")).to_have_text(re.compile("^Ready"))
        assert await page.locator("#partitions").inner_text() == "4"
        assert "agent-status" in await page.locator("#records-topics").inner_text()

        simulator.dice.replace({"status_401": Fault(agents=["agent-3"])})
        sick = page.locator("#sick li").filter(has_text="agent-3")
        await expect(sick).to_contain_text("replace the token")
        await expect(page.locator("#verdict-title")).to_have_text("Ready, but needs attention")
        await expect(page.locator("#events")).to_contain_text("1 agent lost (unauthorized): agent-3")

        await page.get_by_role("searchbox", name="Search").fill("agent-3")
        await expect(page.locator("#range")).to_have_text(shown(1, 1, "1"))
        assert await agents_shown(page) == ["agent-3"]
        await expect(page.locator("#rows")).to_contain_text("unauthorized")
        tokens = [caller.token for caller in simulator.world.callers.values()]
        assert bodies
        bodies.append(await page.content())
        assert not any(token in body for token in tokens for body in bodies)
        assert faults == []


def shown(first: int, last: int, total: str) -> str:
    return f"{first}\N{EN DASH}{last} of {total}"


async def keep(answer: Any, bodies: list[str]) -> None:
    if "api/sessions" in answer.url:
        bodies.append(await answer.text())


async def test_finding_one_of_thousands(browser: Any) -> None:
    """With 5,000 agents the page stays responsive: it shows one page of them, finds one at once, and pages
    and filters.
    """
    bridge = Pictured(5000)
    for home in bridge.homes.values():
        fail(home[5])
    async with served(bridge) as url:
        page, faults = await open_page(browser, url)
        await expect(page.locator("#range")).to_have_text(shown(1, 25, "5,000"))
        began = time.monotonic()
        await page.get_by_role("searchbox", name="Search").fill("agent-49")
        await expect(page.locator("#range")).to_have_text(shown(1, 25, "100"))
        assert time.monotonic() - began < patient(2.0)
        await page.get_by_role("button", name="Next").click()
        await expect(page.locator("#range")).to_have_text(shown(26, 50, "100"))
        assert (await agents_shown(page))[0] == "agent-4925"

        await page.get_by_role("button", name="Show all 8 in the table").click()
        await expect(page.locator("#range")).to_have_text(shown(1, 8, "8"))
        assert await page.get_by_label("Condition").input_value() == "sick"
        assert len(await agents_shown(page)) == 8
        assert faults == []


async def test_names_are_only_text(browser: Any) -> None:
    """Markup in an agent_id, label or error is shown as text."""
    bridge = Pictured()
    name = "<img src=x onerror=\"document.title='caught'\">"
    fail(bridge.add(name, "1", site="<b>bold</b>"))
    async with served(bridge) as url:
        page, faults = await open_page(browser, url)
        await expect(page.locator("#rows td").first).to_have_text(name)
        await expect(page.locator("#sick")).to_contain_text(name)
        assert await page.locator("#rows img, #rows b, #sick img").count() == 0
        assert faults == []


async def test_not_ready_and_gone(browser: Any) -> None:
    """The page says in large letters that the bridge is not ready, with the reason, or does not answer."""
    bridge = Pictured(3)
    async with served(bridge) as url:
        page, _ = await open_page(browser, url)
        await expect(page.locator("#verdict-title")).to_have_text("Ready")
        bridge.reason = "Kafka has not answered a heartbeat"
        await expect(page.locator("#verdict-title")).to_have_text("Not ready")
        await expect(page.locator("#verdict-text")).to_have_text("Kafka has not answered a heartbeat")
    await expect(page.locator("#verdict-title")).to_have_text("The bridge does not answer")


async def test_light_dark_and_phone(browser: Any, tmp_path: Path) -> None:
    """The page fits a phone, a tablet and a screen, light and dark, and all its text is readable."""
    bridge = Pictured(5000)
    fail(bridge.homes[0][0])
    directory = Path(os.environ.get("SCREENSHOTS", tmp_path))
    async with served(bridge) as url:
        for scheme in ("light", "dark"):
            page, faults = await open_page(browser, url, color_scheme=scheme)
            for width in WIDTHS:
                await page.set_viewport_size({"width": width, "height": 900})
                await expect(page.locator("#sick li")).to_have_count(1)
                assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (scheme, width)
                await page.screenshot(path=directory / f"page-{scheme}-{width}.png", full_page=True)
            assert await page.evaluate(CONTRASTS) == []
            assert faults == []
            await page.close()


CONTRASTS = r"""() => {
  // Texts whose contrast with what is behind them is below 4.5:1 (WCAG 2.2, 1.4.3).
  const parse = (color) => color.match(/[\d.]+/g).map(Number);
  const light = (color) => parse(color).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if ((parse(color)[3] ?? 1) === 1) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  return [...document.querySelectorAll("body *")]
    .filter((e) => own(e) && e.checkVisibility() && !e.disabled && e.tagName !== "OPTION")
    .map((e) => {
      const [a, b] = [light(getComputedStyle(e).color), light(behind(e))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 90)];
    }).filter(([ratio]) => ratio < 4.5);
}"""


async def test_a_browser_gives_the_token_as_a_password(browser: Any, tmp_path: Path) -> None:
    """With ops.token a browser asks for a password once, and the page, its data and its stream then work."""
    async with served(Pictured(5), OpsSettings(token=SecretStr("ops-t0ken"))) as url:
        login = {"username": "anyone", "password": "ops-t0ken"}
        page, faults = await open_page(browser, url, http_credentials=login)
        await expect(page.locator("#rows tr")).to_have_count(5)
        await page.screenshot(path=tmp_path / "page.png")
        assert faults == []
