"""Helpers of the tests that open the report in a browser, which is a fixture of integration/conftest.py."""

CHROMIUM = "/usr/bin/chromium"
DESK, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}


def see(page, id):
    """Scrolls a section onto the screen, and waits two frames: in the first it is seen, before the second drawn."""
    page.locator(f"#{id}").scroll_into_view_if_needed()
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))")
    return page.locator(f"#{id}")


def until(page, expression):
    """Waits until something holds on the page; its own policy forbids the eval of playwright's wait_for_function."""
    for _ in range(300):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {expression}")
