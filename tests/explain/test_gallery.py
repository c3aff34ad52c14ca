"""The gallery as its reader sees it: in a real browser, offline, sorted, filtered, by keyboard, in light and dark."""

from __future__ import annotations

import base64
import io
import shutil

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

import pesi
from pesi.explain.gallery import gallery_order, gallery_pictures, write_gallery

CHROMIUM = shutil.which("chromium")
LEVELS = ("excise", "refer", "no level reached")
CLASSES = ("melanoma", "seborrheic_keratosis", "nevus")
HOSTILE = '<script>document.title = "owned"</script>&amp;"\u2028\udcff'


def picture(colour: str, kind: str = "JPEG", mode: str = "RGB") -> str:
    buffer = io.BytesIO()
    Image.new(mode, (40, 30), colour).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def row(number: int, melanoma: float, no_result: str | None = None) -> dict:
    level = next(level for level, limit in zip(LEVELS, (0.7, 0.3, 0), strict=True) if melanoma >= limit)
    rest = 1 - melanoma
    return {
        "image": f"Mole_{number:02d}",
        "path": f"d/Mole_{number:02d}.jpg",
        "lesion_id": f"lesion{number % 3}",
        "probabilities": dict(zip(CLASSES, (melanoma, 0.25 * rest, 0.75 * rest), strict=True)),
        "malignant": melanoma,
        "triage": None if no_result else level,
        "triage_reason": f"malignant probability {melanoma:.3f}",
        "no_result": no_result,
        "prediction_sets": {"0.90": ["melanoma", "nevus"]},
        "verdicts": [{"check": "dark", "level": "warn", "reason": "It is rather dark.", "value": 1, "limit": 2}],
        "pictures": {"image": picture("#a67"), "overlay": picture("#ff08", "PNG", "RGBA")},
    }


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    values = np.random.default_rng(0).permutation(np.linspace(0.02, 0.98, 17))
    found = [row(number, float(value)) for number, value in enumerate(values)]
    found[3] = row(3, 0.99, "It is too blurred.")
    found.insert(5, {"image": HOSTILE, "path": HOSTILE, "refused": f"{HOSTILE} is no image", "cure": ""})
    return found


@pytest.fixture(scope="module")
def page_file(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("gallery") / "g.html"
    order = sorted(rows, key=gallery_order)
    write_gallery(path, iter(order), count=len(rows), levels=LEVELS, classes=CLASSES, bundle="b@1")
    return path


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, page_file):
    requests, complaints = [], []
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(page_file.as_uri())
    yield page
    assert [url for url in requests if not url.startswith("data:")] == [page_file.as_uri()]
    assert complaints == []
    page.close()


def shown(page) -> list[str]:
    return page.locator("article:visible").locator("h2").all_text_contents()


def test_everything_is_there_the_most_suspicious_first(page, rows):
    answered = sorted((r for r in rows if r.get("no_result", "") is None), key=lambda r: -r["malignant"])
    names = shown(page)
    assert names[:16] == [r["image"] for r in answered]
    assert names[16] == "Mole_03"
    assert "owned" in names[17]
    assert page.title().startswith("18 images by b@1")
    first = page.locator("article").first.inner_text()
    for said in ("excise", "0.980", "melanoma or nevus", "rather dark", "lesion"):
        assert said in first
    assert "too blurred" in page.locator("article").nth(16).text_content()
    widths = page.eval_on_selector_all(
        "article:first-child dl div", "bars => bars.map(b => parseFloat(b.style.getPropertyValue('--p')))"
    )
    assert widths == pytest.approx([98, 1.5, 0.5], abs=0.06)
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200
    page.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    page.wait_for_function("[...document.images].every(i => i.complete)")
    assert page.evaluate("[...document.images].filter(i => !i.naturalWidth).length") == 0


def test_filters_agree_with_the_rows(page, rows):
    answered = [r for r in rows if r.get("no_result", "") is None]
    for level in LEVELS:
        page.get_by_label("Triage").select_option(level)
        assert set(shown(page)) == {r["image"] for r in answered if r["triage"] == level}
        assert page.locator("output").inner_text() == f"{len(shown(page))} of 18"
    page.get_by_label("Triage").select_option("")
    page.get_by_label("Diagnosis").select_option("nevus")
    assert set(shown(page)) == {r["image"] for r in answered if max(r["probabilities"].values()) > r["malignant"]}
    page.get_by_label("Diagnosis").select_option("")
    page.get_by_label("Result").select_option("no result")
    assert shown(page) == ["Mole_03"]
    page.get_by_label("Result").select_option("unread")
    assert len(shown(page)) == 1
    page.get_by_label("Result").select_option("")
    page.get_by_label("Image or lesion").fill("mole_1")
    assert set(shown(page)) == {r["image"] for r in answered if r["image"].startswith("Mole_1")}
    page.get_by_label("Image or lesion").fill("lesion2")
    assert set(shown(page)) == {r["image"] for r in rows if r.get("lesion_id") == "lesion2"}


def test_maps_by_keyboard(page):
    seen = "[...document.querySelectorAll('.map')].filter(m => getComputedStyle(m).visibility === 'visible').length"
    assert page.evaluate(seen) == 0
    for _ in range(4):
        page.keyboard.press("Tab")  # over the filters
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.evaluate(seen) == 17
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Map over Mole_")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "false"
    assert page.evaluate(seen) == 16


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2) of `rgb(r, g, b)`."""
    parts = np.array([int(part) for part in colour[4:-1].split(",")]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(page, scheme):
    page.emulate_media(color_scheme=scheme)
    soft = luminance(page.evaluate("getComputedStyle(document.querySelector('article')).backgroundColor"))
    assert (soft > 0.5) == (scheme == "light")
    for place in ("h2", ".quiet", ".level.u0", ".level.u1", ".level.last"):
        ink = luminance(page.evaluate(f"getComputedStyle(document.querySelector('article {place}')).color"))
        light, dark = max(ink, soft), min(ink, soft)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, place  # WCAG 2, level AA


def test_rows_are_written_as_they_come(tmp_path):
    """The second row is asked for only when the first is on the page: thousands need no memory."""
    written = []

    def many():
        for number in range(3000):
            part = [path.stat().st_size for path in tmp_path.glob(".g.html.*.part")]
            written.append(part[0] if part else 0)
            yield row(number, 0.5)

    write_gallery(tmp_path / "g.html", many(), count=3000, levels=LEVELS, classes=CLASSES, bundle="b@1")
    assert written[0] == 0
    assert written[1500] > 0.4 * (tmp_path / "g.html").stat().st_size


def test_the_pictures_of_an_image(tmp_path):
    """What the networks look at keeps its proportions, and the map over it has the same."""
    classifier = pesi.load(device="cpu")
    pixels = np.full((300, 400, 3), (220, 180, 160), np.uint8)
    yy, xx = np.mgrid[:300, :400]
    pixels[(yy - 90) ** 2 + (xx - 300) ** 2 < 45**2] = (70, 40, 35)
    Image.fromarray(pixels).save(tmp_path / "mole.png")
    found = gallery_pictures(classifier, tmp_path / "mole.png", class_name="melanoma")
    image, overlay = (Image.open(io.BytesIO(base64.b64decode(found[name]))) for name in ("image", "overlay"))
    assert (image.format, image.size) == ("JPEG", (240, 240))  # the central square
    assert (overlay.format, overlay.mode, overlay.size) == ("PNG", "RGBA", (48, 48))
    np.testing.assert_allclose(np.asarray(image)[72, 200], (70, 40, 35), atol=12)
    assert len(found["image"]) + len(found["overlay"]) < 20_000
    alpha = np.asarray(overlay)[..., 3].astype(float)
    assert alpha.max() > 150
    assert found == gallery_pictures(classifier, pixels, class_name="melanoma")
