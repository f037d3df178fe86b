"""Chromium without a screen, for the tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from balog_celery.pytest_plugin import missing

#: Nothing of it may ask the network for anything, nor share a profile with another Chromium.
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


@contextmanager
def chromium(folder: Path, width: int, height: int) -> Iterator[Any]:
    """A browser with a profile of its own in *folder*, where downloads go as well."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        missing("chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    for flag in [*FLAGS, f"--window-size={width},{height}", f"--user-data-dir={folder / 'profile'}"]:
        options.add_argument(flag)
    # With the driver's path given, Selenium does not look for one to download.
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    browser.set_page_load_timeout(60)
    try:
        yield browser
    finally:
        browser.quit()


#: What chromedriver says of an element whose page goes while it looks, where it should say that the element is stale.
GONE = ("does not belong to the document", "No node with given id", "Cannot find context with specified id")


@contextmanager
def replaced_page() -> Iterator[None]:
    """Suppress the errors of an element whose page is replaced meanwhile, by a click or because it renews itself."""
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, WebDriverException

    try:
        yield
    except (NoSuchElementException, StaleElementReferenceException):
        pass
    except WebDriverException as error:
        if not any(text in str(error.msg) for text in GONE):
            raise
