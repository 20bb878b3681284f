"""Headless Chromium for tests, which are skipped where it or its driver is missing."""

import shutil
from contextlib import contextmanager

import pytest

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="chromium is not on this machine (Debian: chromium)"),
    pytest.mark.skipif(not CHROMEDRIVER, reason="chromedriver is not on this machine (chromium-driver)"),
]
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root, as in containers, has no sandbox
    "--disable-gpu",
    "--disable-dev-shm-usage",
)


@contextmanager
def chromium(profile, *flags, **capabilities):
    """A browser whose files go into a folder; ``capabilities`` are the driver's, by their names there."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    for name, value in capabilities.items():
        options.set_capability(name, value)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    try:
        yield driver
    finally:
        driver.quit()
