"""A browser at a running application; both serve every file of this folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deployments.settings import load_settings
from deployments.stores import StoreUrls
from tests.e2e.playing import CHROMIUM, PATIENCE_MS, RECORD_SOCKETS, wait_for_frames
from tests.serving import Application


@pytest.fixture(scope="module")
def address(application: Application, stores: StoreUrls) -> str:
    """The application as `make play` starts it, but for what a busy machine would turn into a wait without end.

    All places are offered however late chunks come, and clips get their share of the cores beside a world that is
    always late.
    """
    settings = load_settings()
    world = dataclasses.replace(settings.world, most_late_share=1)
    generator = dataclasses.replace(settings.generator, niceness=0)
    return application.serve(dataclasses.replace(settings, world=world, generator=generator), stores)


@pytest.fixture(scope="package")
def browser():
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address) -> Iterator[Callable[..., Any]]:
    """Opens the page, in a browser window of given options, and waits until its first world plays.

    A script of the test's own may run before those of the page.
    """
    contexts = []

    def open_page(script: str = "", **options: Any) -> Any:
        context = browser.new_context(**options)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.add_init_script(RECORD_SOCKETS + script)
        page.goto(address)
        wait_for_frames(page, 1)
        contexts.append((context, page))
        return page

    yield open_page
    for context, page in contexts:
        page.evaluate("fetch(`/v1/sessions/${gamegen.sessionId}`, { method: 'DELETE' })")
        context.close()


@pytest.fixture
def page(open_page):
    """The page with its first world playing."""
    return open_page(viewport={"width": 1280, "height": 800})


@pytest.fixture
def phone(open_page):
    """The page on a narrow phone."""
    return open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
