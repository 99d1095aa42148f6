"""The page in a headless Chromium: what a person types, reads and clicks.

Skipped where there is no Chromium or no Playwright; `DISTILBERT_JAX_SCREENSHOTS` names a folder that keeps what it looks like.
"""

import os
import shutil
from pathlib import Path

import pytest

from distilbert_jax.pipelines import FillMask, QuestionAnswering, TextClassification, TokenClassification
from tests.serving.conftest import start

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
SIZES = {"desk": (1100, 900), "phone": (360, 740)}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, endpoint):
    page = browser.new_page()
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(endpoint.url)
    page.get_by_role("button", name="Fill-mask").wait_for()
    yield page
    page.close()
    assert not said
    assert all(url.startswith(endpoint.url) for url in asked)  # no request to elsewhere


def keep(page, name):
    """A screenshot, where a folder is named for it."""
    if folder := os.environ.get("DISTILBERT_JAX_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def bars(page):
    """The name and the number of each bar."""
    page.locator(".bar").first.wait_for()
    return [bar.locator("span:not(.fill)").all_inner_texts() for bar in page.locator(".bar").all()]


def percent(score):
    return f"{100 * score:.1f} %"


def test_enter_shows_the_pipelines_five_answers_and_a_click_fills_one_in(page, models):
    page.get_by_label("Text with [MASK]").fill("reda redb [MASK] redd")
    page.get_by_label("Text with [MASK]").press("Enter")
    expected = FillMask(models["lm"])("reda redb [MASK] redd")
    assert bars(page) == [[one["token_str"], percent(one["score"])] for one in expected]
    keep(page, "fill-mask")
    page.locator("button.bar").nth(1).click()
    assert page.get_by_label("Text with [MASK]").input_value() == f"reda redb {expected[1]['token_str']} redd"


def test_several_masks_have_a_list_each_and_a_click_fills_the_right_one(page, models):
    page.get_by_label("Text with [MASK]").fill("[MASK] redb [MASK]")
    page.get_by_role("button", name="Compute").click()
    page.get_by_role("heading", name="Mask 2").wait_for()
    _, second = FillMask(models["lm"])("[MASK] redb [MASK]")
    page.get_by_role("list", name="answers for mask 2").locator("button").first.click()
    assert page.get_by_label("Text with [MASK]").input_value() == f"[MASK] redb {second[0]['token_str']}"


def test_the_curl_line_and_the_json_are_of_this_request(page):
    page.get_by_label("Text with [MASK]").fill("it's [MASK]")
    page.get_by_role("button", name="Compute").click()
    page.get_by_text("JSON output").click()
    curl = page.locator("#curl").inner_text()
    assert curl.startswith("curl -X POST http://127.0.0.1:")
    assert curl.endswith("""/models/lm/pipeline/fill-mask -d '{"inputs":"it'\\''s [MASK]"}'""")
    assert page.locator("#json").inner_text().startswith("[")


def test_errors_are_shown_to_people(page):
    page.get_by_label("Text with [MASK]").fill("no mask")
    page.get_by_role("button", name="Compute").click()
    page.get_by_role("alert").filter(has_text="[MASK]").wait_for()
    assert not page.locator(".bar").count()
    keep(page, "error")


def test_two_prompts_are_compared_by_log_odds(page):
    page.get_by_role("button", name="compare two prompts").click()
    page.get_by_label("Text with [MASK]").fill("reda [MASK]")
    page.get_by_label("The other prompt").fill("bluea [MASK]")
    page.get_by_role("button", name="Compute").click()
    page.locator("td").first.wait_for()
    odds = [float(cell.replace("−", "-")) for cell in page.locator("tr td:last-child").all_inner_texts()]
    assert odds == sorted(odds, reverse=True)
    keep(page, "compare")


def test_labels_of_the_other_model_and_features(page, models):
    page.get_by_label("Model").select_option("labels")
    page.get_by_label("Text", exact=True).fill("reda redb")
    page.get_by_role("button", name="Compute").click()
    expected = TextClassification(models["labels"])("reda redb", top_k=None)
    assert bars(page) == [[one["label"], percent(one["score"])] for one in expected]
    keep(page, "labels")
    page.get_by_role("button", name="Features").click()
    page.get_by_label("Text", exact=True).fill("reda redb")
    page.get_by_role("button", name="Compute").click()
    page.get_by_text("4 tokens × ").wait_for()


def test_words_are_marked_and_an_answer_in_its_context(page, models):
    page.get_by_label("Model").select_option("tags")
    page.get_by_label("Text", exact=True).fill("reda 😀 redb bluea")
    page.get_by_role("button", name="Compute").click()
    page.locator(".text").wait_for()
    marks = [mark.inner_text() for mark in page.locator("mark").all()]
    expected = TokenClassification(models["tags"])("reda 😀 redb bluea", "simple")
    assert [mark.split("\n")[0].rstrip("X").rstrip() for mark in marks] == [
        "reda 😀 redb bluea"[one["start"] : one["end"]] for one in expected
    ]
    keep(page, "entities")
    page.get_by_label("Model").select_option("answers")
    page.get_by_label("Question").fill("reda redb")
    page.get_by_label("Context").fill("bluea blueb bluec")
    page.get_by_role("button", name="Compute").click()
    page.locator(".text").wait_for()
    expected = QuestionAnswering(models["answers"])("reda redb", "bluea blueb bluec")
    assert page.locator("mark").inner_text() == expected["answer"]
    keep(page, "answer")


def test_a_servers_token_is_asked_for(browser, models):
    guarded = start({"lm": models["lm"]}, "--token", "secret")
    page = browser.new_page()
    try:
        page.goto(guarded.url)
        page.get_by_role("alert").filter(has_text="token").wait_for()
        page.get_by_label("Token of this server").fill("secret")
        page.get_by_label("Token of this server").blur()
        page.get_by_role("button", name="Fill-mask").wait_for()
        assert guarded.ask("/", {"inputs": "reda [MASK]"}).status == 401
        assert guarded.ask("/", {"inputs": "reda [MASK]"}, authorization="Bearer secret").status == 200
        assert guarded.ask("/models", authorization="bearer  secret").status == 200
        for wrong in ("Bearer secretly", "Bearer", "Basic secret", "secret", "Bearer Bearer secret"):
            assert guarded.ask("/models", authorization=wrong).status == 401, wrong
        assert guarded.ask("/health").status == 200
    finally:
        page.close()
        guarded.child.end()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_wider_than_the_window(browser, endpoint, size, scheme):
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(endpoint.url)
    page.get_by_label("Text with [MASK]").fill(f"reda [MASK] {'r' * 90}")
    page.get_by_role("button", name="Compute").click()
    bars(page)
    page.get_by_text("JSON output").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    keep(page, f"{size}-{scheme}")
    page.close()
