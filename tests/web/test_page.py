"""The page in a real browser: what a person sees and does. The console must stay without errors."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, ViewportSize, expect, sync_playwright

import evlog
from evlog import EventStore, NewEvent
from evlog.web import reading
from tests.support.helpers import flip_bit
from tests.web.conftest import LONG_SECONDS, Served, chromium, serving_here

WIDE: ViewportSize = {"width": 1280, "height": 800}
LINES = "#rows a.line"
Show = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip("no Chromium is installed (Debian: chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox"] if os.geteuid() == 0 else [],
            timeout=LONG_SECONDS * 1000,
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Page:
    """The one tab in which all tests run: a new one costs half a second."""
    context = browser.new_context(viewport=WIDE, timezone_id="Europe/Berlin")
    context.set_default_timeout(LONG_SECONDS * 1000)
    expect.set_options(timeout=LONG_SECONDS * 1000)
    return context.new_page()


@pytest.fixture
def watched(tab: Page) -> Iterator[Page]:
    """A page whose console stays empty, and which asks for nothing elsewhere."""
    complaints: list[str] = []

    def ask(request: Request) -> None:
        if "//127.0.0.1:" not in request.url:
            complaints.append(request.url)

    watches: dict[str, Callable[[Any], None]] = {
        "console": lambda message: complaints.append(message.text),
        "pageerror": lambda error: complaints.append(str(error)),
        "dialog": lambda dialog: complaints.append(dialog.message),
        "request": ask,
    }
    for name, watch in watches.items():
        tab.on(name, watch)  # type: ignore[call-overload]
    yield tab
    tab.evaluate("0")  # what the browser had to say until now has come
    for name, watch in watches.items():
        tab.remove_listener(name, watch)
    tab.goto("about:blank")
    tab.set_viewport_size(WIDE)
    tab.emulate_media(color_scheme="light")
    assert complaints == []


@pytest.fixture
def show(watched: Page, served: Served) -> Show:
    """Open a place of the page."""

    def show(place: str = "", served: Served = served) -> Page:
        watched.goto(f"{served.url}#/{place}")
        return watched

    return show


@pytest.fixture
def own(tmp_path: Path, tab: Page) -> Iterator[Served]:
    """A store that a test changes, and its page."""
    with evlog.open(tmp_path / "store", create=True) as store, serving_here(store) as served:
        yield served
        tab.goto("about:blank")  # else the page would complain that its server has ended


def positions(page: Page) -> list[int]:
    return [int(text.replace(",", "")) for text in page.locator(f"{LINES} .number").all_inner_texts()]


def types(page: Page) -> set[str]:
    return set(page.locator(f"{LINES} .type").all_inner_texts())


# --- the live log


def test_a_new_event_appears_by_itself(show: Show, own: Served) -> None:
    page = show(served=own)
    expect(page.locator("#note")).to_have_text(re.compile("No events yet"))
    expect(page.locator("#live")).to_have_text("Live")
    own.store.append("order-1", [NewEvent("Placed", {"total": 30})])
    expect(page.locator(LINES)).to_have_count(1)
    expect(page.locator(f"{LINES} .data")).to_have_text('{"total":30}')
    own.store.append("order-1", [NewEvent("Paid"), NewEvent("Sent")])
    expect(page.locator(LINES)).to_have_count(3)
    assert positions(page) == [3, 2, 1]


def test_only_new_events_that_match_appear(show: Show, own: Served) -> None:
    page = show("log?type=Paid", served=own)
    expect(page.locator("#live")).to_have_text("Live")
    own.store.append("a", [NewEvent("Placed"), NewEvent("Paid")])
    expect(page.locator(LINES)).to_have_count(1)
    own.store.append("b", [NewEvent("Paid"), NewEvent("Sent")])
    expect(page.locator(LINES)).to_have_count(2)
    assert positions(page) == [3, 2]


def test_a_paused_page_takes_what_it_missed_when_it_follows_again(show: Show, own: Served) -> None:
    page = show(served=own)
    own.store.append("a", [NewEvent("First")])
    expect(page.locator(LINES)).to_have_count(1)
    page.keyboard.press("f")
    expect(page.locator("#live")).to_have_text("Paused")
    own.store.append("a", [NewEvent("Second")])
    page.evaluate("""new Promise((come) => {
        const source = new EventSource("live");
        source.addEventListener("head", (news) => news.data === "2" && come(source.close()));
    })""")
    assert page.evaluate("fetch('store').then((answer) => answer.ok)")
    expect(page.locator(LINES)).to_have_count(1)
    page.keyboard.press("f")
    expect(page.locator(LINES)).to_have_count(2)


def test_what_came_while_another_view_was_shown_is_there(show: Show, own: Served) -> None:
    own.store.append("a", [NewEvent("First")])
    page = show(served=own)
    expect(page.locator(LINES)).to_have_count(1)
    page.keyboard.press("4")
    own.store.append("a", [NewEvent("Second")])
    expect(page.locator(".tiles div").first).to_have_text("2events")
    page.keyboard.press("1")
    expect(page.locator(LINES)).to_have_count(2)


def test_a_reader_further_down_is_not_moved(show: Show, own: Served) -> None:
    own.store.append("a", [NewEvent("T", number) for number in range(200)])
    page = show(served=own)
    expect(page.locator(LINES)).to_have_count(100)
    page.locator(LINES).nth(60).scroll_into_view_if_needed()
    before = page.locator("#rows-scroll").evaluate("node => node.scrollTop")
    assert before > 100
    own.store.append("a", [NewEvent("T"), NewEvent("T")])
    expect(page.locator("#waiting")).to_have_text("↑ 2 new events")
    assert page.locator("#rows-scroll").evaluate("node => node.scrollTop") == before
    assert positions(page)[0] == 200
    page.locator("#waiting").click()
    expect(page.locator(f"{LINES} .number").first).to_have_text("202")
    expect(page.locator("#waiting")).to_be_hidden()


def test_more_than_a_page_at_once_leaves_the_newest_page(show: Show, own: Served) -> None:
    page = show(served=own)
    expect(page.locator("#live")).to_have_text("Live")
    own.store.append("a", [NewEvent("T", number) for number in range(1000)])
    expect(page.locator(f"{LINES} .number").first).to_have_text("1,000")
    assert positions(page) == list(range(1000, 900, -1))


def test_lines_that_new_events_have_pushed_out_are_on_the_next_page(show: Show, own: Served) -> None:
    page = show(served=own)
    expect(page.locator("#live")).to_have_text("Live")
    for end in range(50, 401, 50):
        own.store.append("a", [NewEvent("T", number) for number in range(50)])
        expect(page.locator(f"{LINES} .number").first).to_have_text(str(end))
    assert positions(page) == list(range(400, 100, -1))
    page.keyboard.press("n")
    expect(page.locator(f"{LINES} .number").first).to_have_text("100")


@pytest.mark.parametrize("seconds", [0.0, LONG_SECONDS])
def test_new_events_are_all_shown_however_short_a_search_is(
    show: Show, own: Served, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SEARCH_SECONDS", seconds)
    own.store.append("a", [NewEvent("T"), NewEvent("T")])
    page = show(served=own)
    expect(page.locator(LINES)).to_have_count(2)
    first = page.locator(LINES).last.element_handle()
    own.store.append("a", [NewEvent("T") for _ in range(30)])
    expect(page.locator(LINES)).to_have_count(32)
    assert positions(page) == list(range(32, 0, -1))
    assert first is not None
    assert first.evaluate("node => node.isConnected")  # it was not loaded again


def test_a_server_that_has_ended_is_said(tab: Page, store: EventStore) -> None:
    page = tab  # its console tells of the lost connection, rightly
    with serving_here(store) as served:
        page.goto(served.url)
        expect(page.locator("#live")).to_have_text("Live")
    expect(page.locator("#trouble")).to_have_text(re.compile("start it again and open the new address"))
    expect(page.locator("#live")).to_have_text("Disconnected")
    page.goto("about:blank")


# --- filters and pages


@pytest.mark.parametrize(
    ("name", "text", "count", "first"),
    [
        ("type", "Paid", 30, 300),
        ("stream", "cart-04", 10, 10),  # versions
        ("category", "order", 100, 300),
        ("tag", "customer:2", 10, 291),
        ("text", '"at":9', 30, 300),
        ("text", '{"number":19,"at":0', 1, 191),
        ("text", "occurs nowhere", 0, 0),
        ("since", "1h", 100, 300),
        ("until", "2020-01-01", 0, 0),
    ],
)
def test_a_filter_narrows_the_log(show: Show, name: str, text: str, count: int, first: int) -> None:
    page = show()
    expect(page.locator(LINES)).to_have_count(100)
    page.locator(f"#filters input[name={name}]").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(f"#filters input[name={name}]")).to_have_class(re.compile("set"))
    if count:
        expect(page.locator(f"{LINES} .number").first).to_have_text(str(first))
    else:
        expect(page.locator("#note")).to_have_text("No events match.")
    expect(page.locator(LINES)).to_have_count(count)
    assert f"{name}=" in page.url
    page.locator("#clear").click()
    expect(page.locator(f"{LINES} .number").first).to_have_text("300")


def test_a_filter_that_makes_no_sense_says_why(tab: Page, served: Served) -> None:
    page = tab  # to its console the browser itself writes a line for an answer of 400
    page.goto(f"{served.url}#/log?category=order&stream=order-01")
    expect(page.locator("#note")).to_have_text(re.compile("leave one of them empty"))
    page.locator("#filters input[name=stream]").fill("")
    page.keyboard.press("Enter")
    expect(page.locator(LINES)).to_have_count(100)
    page.goto("about:blank")


def test_a_name_with_spaces_leads_to_its_events(show: Show, own: Served) -> None:
    own.store.append(" s ", [NewEvent("A"), NewEvent("B")])
    page = show("streams", served=own)
    page.locator("#streams a").click()
    expect(page.locator(LINES)).to_have_count(2)
    page.locator("#filters input[name=type]").fill(" B ")
    page.keyboard.press("Enter")
    expect(page.locator(LINES)).to_have_count(1)


def test_a_search_that_was_stopped_goes_on_with_older_events(
    show: Show, own: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.store.append("a", [NewEvent("Rare"), *[NewEvent("T", number) for number in range(5000)]])
    monkeypatch.setattr(reading, "_FIRST_PIECE", 1)
    monkeypatch.setattr(reading, "SEARCH_SECONDS", 0.0)  # one position for each answer
    page = show("log?text=Rare&type=Rare", served=own)
    expect(page.locator("#note")).to_contain_text("Esc stops")
    page.keyboard.press("Escape")
    expect(page.locator("#note")).to_contain_text("nothing further was searched")
    monkeypatch.setattr(reading, "_FIRST_PIECE", 10_000)
    page.keyboard.press("n")
    expect(page.locator("#note")).to_have_text("No events match.")
    assert "before=" in page.url


def test_back_leads_to_the_filters_before(show: Show) -> None:
    page = show("log?type=Paid")
    expect(page.locator(LINES)).to_have_count(30)
    page.locator("#filters input[name=category]").fill("cart")
    page.keyboard.press("Enter")
    expect(page.locator(LINES)).to_have_count(15)
    page.go_back()
    expect(page.locator(LINES)).to_have_count(30)
    expect(page.locator("#filters input[name=category]")).to_have_value("")


def test_pages_lead_both_ways_without_gaps(show: Show) -> None:
    page = show()
    first = page.locator(f"{LINES} .number").first
    seen = []
    for key, top in (("", "300"), ("n", "200"), ("n", "100")):
        if key:
            page.keyboard.press(key)
        expect(first).to_have_text(top)
        seen += positions(page)
    assert seen == list(range(300, 0, -1))
    expect(page.locator("#older")).to_be_disabled()
    page.keyboard.press("p")
    expect(first).to_have_text("200")
    assert positions(page) == list(range(200, 100, -1))
    page.keyboard.press("p")
    expect(first).to_have_text("300")
    page.keyboard.press("p")
    expect(page.locator("#newest")).to_be_disabled()
    page.keyboard.press("End")
    expect(first).to_have_text("100")
    page.keyboard.press("Home")
    expect(first).to_have_text("300")
    page.locator("#jump input").fill("42")
    page.keyboard.press("Enter")
    expect(first).to_have_text("42")
    expect(page.locator(LINES)).to_have_count(42)


# --- one event


def test_an_event_is_shown_with_its_data_and_its_neighbours(show: Show) -> None:
    page = show()
    page.locator(LINES).nth(9).click()
    pane = page.locator("#event")
    expect(pane.locator("h2")).to_have_text("Placed")
    expect(pane.locator("pre").first).to_have_text('{\n  "number": 29,\n  "at": 0\n}', use_inner_text=True)
    expect(pane.locator("dd a.tag")).to_have_text("customer:2")
    expect(pane.locator("pre").nth(1)).to_contain_text('"user": "ann"')
    expect(pane).to_contain_text("No other event is linked to this one.")
    expect(page.locator(f"{LINES}[aria-current=true] .number")).to_have_text("291")
    page.keyboard.press("]")
    expect(pane.locator("h2")).to_have_text("Changed")
    page.keyboard.press("[")
    expect(pane.locator("h2")).to_have_text("Placed")
    page.keyboard.press("Escape")
    expect(pane).to_be_hidden()


def test_the_keyboard_is_enough(show: Show) -> None:
    page = show()
    expect(page.locator(LINES)).to_have_count(100)
    page.keyboard.press("j")
    page.keyboard.press("j")
    focused = page.locator(f"{LINES}:focus")
    expect(focused.locator(".number")).to_have_text("299")
    assert focused.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(page.locator("#event h2")).to_have_text("Paid")
    page.keyboard.press("j")
    expect(page.locator("#event dd").nth(2)).to_have_text("299")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    for key, view in (("2", "streams"), ("3", "subscriptions"), ("4", "store"), ("1", "log")):
        page.keyboard.press(key)
        expect(page.locator(f"#view-{view}")).to_be_visible()
        expect(page.locator(f"nav a[data-view={view}]")).to_have_attribute("aria-current", "page")
    page.keyboard.press("/")
    page.keyboard.type("occurs nowhere")
    page.keyboard.press("Enter")
    expect(page.locator("#note")).to_have_text("No events match.")
    page.keyboard.press("Escape")
    page.keyboard.press("x")
    expect(page.locator(LINES)).to_have_count(100)


def test_a_story_is_a_tree(show: Show, own: Served) -> None:
    store = own.store

    def react(to: int, stream: str, type: str) -> int:
        return store.append(stream, [store.get(to).caused(type)]).last_position

    placed = store.append("order-1", [NewEvent("Placed")]).last_position
    store.append("other", [NewEvent("Unrelated")])
    asked = react(placed, "payment-1", "Asked")
    paid = react(asked, "order-1", "Paid")
    react(placed, "mail-1", "Sent")
    page = show(f"log?event={paid}", served=own)
    tree = page.locator("#story .tree")
    expect(tree.locator("> li > a b")).to_have_text("Placed")
    expect(tree.locator("> li > ul > li > a b")).to_have_text(["Asked", "Sent"])
    expect(tree.locator("> li > ul > li > ul > li > a b")).to_have_text(["Paid"])
    expect(tree.locator("a[aria-current=true]")).to_contain_text("Paid")
    expect(page.locator("#story > p")).to_have_text("")
    expect(tree).not_to_contain_text("Unrelated")
    tree.locator("a", has_text="Asked").click()
    expect(page.locator("#event h2")).to_have_text("Asked")
    expect(page.locator("#event dt", has_text="Cause")).to_be_visible()


HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def test_what_is_in_the_store_is_shown_as_text(show: Show, own: Served) -> None:
    own.store.append(
        HOSTILE,
        [NewEvent(HOSTILE, {HOSTILE: HOSTILE}, tags=[HOSTILE], metadata={HOSTILE: HOSTILE})],
    )
    own.store.append("s", [NewEvent(HOSTILE, f"\u202e{HOSTILE}\x1b[31m", content_type="text")])

    def fail(_: evlog.Event) -> None:
        raise ValueError(HOSTILE)

    own.store.consume(HOSTILE, fail, follow=False, retries=1, on_failure="park")
    for place in ("log?event=1", "log?event=2", "streams", f"subscriptions?open={HOSTILE}", "store"):
        page = show(place, served=own)
        page.locator("#view-" + place.partition("?")[0]).wait_for()
        if place != "store":
            expect(page.locator("main")).to_contain_text(HOSTILE)
        if place == "log?event=2":
            expect(page.locator("#event pre")).to_have_text(f"\\u202e{HOSTILE}\\u001b[31m")
        assert page.locator("main img, main script").count() == 0


def test_binary_and_huge_data_are_cut_and_can_be_downloaded(show: Show, own: Served, tmp_path: Path) -> None:
    raw, huge = os.urandom(5000), {"rows": ["x" * 1000] * 1000}
    own.store.append("a", [NewEvent("Raw", raw, content_type="binary"), NewEvent("Huge", huge)])
    page = show("log?event=1", served=own)
    expect(page.locator("#event pre.dump")).to_contain_text(raw[:16].hex(" "))
    expect(page.locator("#event")).to_contain_text("The first 2.05 kB are shown")
    with page.expect_download() as download:
        page.locator("#event a", has_text="Download").click()
    download.value.save_as(tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes() == raw
    assert download.value.suggested_filename == "evlog-1.bin"
    page.keyboard.press("]")
    expect(page.locator("#event h2")).to_have_text("Huge")
    expect(page.locator("#event")).to_contain_text("The first 131 kB are shown")
    with page.expect_download() as download:
        page.locator("#event a", has_text="Download").click()
    download.value.save_as(tmp_path / "huge")
    assert (tmp_path / "huge").read_bytes() == own.store.get(2).data


def test_json_is_formatted_and_otherwise_as_it_is_stored(show: Show, own: Served) -> None:
    own.store.append(
        "a", [NewEvent("T", b'{"n":12345678901234567890,"e":1.0e400,"d":1,"d":[],"s":"a\\"{,"}')]
    )
    page = show("log?event=1", served=own)
    expect(page.locator("#event pre")).to_have_text(
        '{\n  "n": 12345678901234567890,\n  "e": 1.0e400,\n  "d": 1,\n  "d": [],\n  "s": "a\\"{,"\n}',
        use_inner_text=True,
    )


def test_a_redacted_event_says_so(show: Show, own: Served) -> None:
    own.store.append("a", [NewEvent("T", {"name": "ann"})])
    own.store.redact(1, reason="asked for")
    page = show("log?event=1", served=own)
    expect(page.locator("#event")).to_contain_text("The content of this event was redacted.")
    expect(page.locator(f"{LINES} .data")).to_have_text("redacted")


# --- the other views


def test_streams_are_listed_and_found_by_their_beginning(show: Show) -> None:
    page = show("streams")
    lines = page.locator("#streams a")
    expect(lines).to_have_count(30)
    expect(lines.first).to_contain_text("cart-00")
    expect(page.locator("#categories a").first).to_contain_text("cart")
    page.keyboard.press("/")
    page.keyboard.type("order-2")
    expect(lines).to_have_count(5)
    lines.nth(1).click()
    expect(page.locator("#view-log")).to_be_visible()
    expect(page.locator("#numbers")).to_have_text("Version")
    expect(page.locator(LINES)).to_have_count(10)


def test_streams_come_in_pages(show: Show, own: Served) -> None:
    own.store.append_many([(f"s-{number:03}", [NewEvent("T")]) for number in range(250)])
    page = show("streams", served=own)
    spread = page.locator("#streams-range")
    expect(spread).to_have_text(re.compile("1 . 100 of 250"))
    page.keyboard.press("n")
    expect(spread).to_have_text(re.compile("101 . 200 of 250"))
    page.keyboard.press("n")
    expect(spread).to_have_text(re.compile("201 . 250 of 250"))
    expect(page.locator("#streams a").last).to_contain_text("s-249")
    page.keyboard.press("p")
    expect(spread).to_have_text(re.compile("101 . 200 of 250"))
    page.keyboard.press("Home")
    expect(spread).to_have_text(re.compile("1 . 100 of 250"))


def test_without_subscriptions_the_page_says_what_begins_one(show: Show, own: Served) -> None:
    page = show("subscriptions", served=own)
    expect(page.locator("#subscriptions-note code")).to_have_text(
        ["evlog tail --name NAME", "store.subscribe(NAME)"]
    )


def test_subscriptions_show_their_lag_and_what_they_parked(show: Show, own: Served) -> None:
    store = own.store
    store.append("a-1", [NewEvent("Good"), NewEvent("Bad")])

    def handle(event: evlog.Event) -> None:
        if event.type == "Bad":
            raise ValueError("the printer is on fire")

    store.consume("printer", handle, follow=False, category="a", retries=1, on_failure="park")
    store.append("a-1", [NewEvent("Good"), NewEvent("Good"), NewEvent("Good")])
    page = show("subscriptions", served=own)
    article = page.locator("article")
    expect(article.locator("h2")).to_have_text("printer")
    expect(article).to_contain_text("3 positions behind")
    expect(article).to_contain_text("selects category a")
    article.locator("button", has_text="1 parked").click()
    expect(article.locator(".parked pre")).to_contain_text("the printer is on fire")
    store.consume("printer", lambda _: None, follow=False)
    expect(article).to_contain_text("Nothing to do")  # it is asked for again by itself
    article.locator(".parked a").click()
    expect(page.locator("#event h2")).to_have_text("Bad")


def test_the_store_is_shown_in_numbers_and_checked_on_demand(show: Show) -> None:
    page = show("store")
    expect(page.locator(".tiles div").first).to_have_text("300events")
    expect(page.locator("#findings")).to_contain_text("Not checked")
    page.locator("#verify").click()
    expect(page.locator("#findings")).to_contain_text("No damage found")
    expect(page.locator("#findings code")).to_have_text("evlog verify")
    expect(page.locator("dt", has_text="Event limit")).to_be_visible()


def test_damage_is_shown(show: Show, tmp_path: Path) -> None:
    with evlog.open(tmp_path / "store", create=True) as store:
        for name in ("first", "second", "third"):
            store.append("a", [NewEvent("T", name)])
        (log,) = (tmp_path / "store" / "segments").glob("*.log")
        flip_bit(log, b"second")
        with serving_here(store) as served:
            page = show("log", served=served)
            expect(page.locator("#note")).to_contain_text("damage")
            page.goto("about:blank")


# --- how it looks


@pytest.mark.parametrize("place", ["log", "log?event=300", "streams", "subscriptions", "store"])
def test_nothing_is_wider_than_a_narrow_window(show: Show, watched: Page, place: str) -> None:
    watched.set_viewport_size({"width": 400, "height": 700})
    page = show(place)
    page.locator("#view-" + place.partition("?")[0]).wait_for()
    if "event" in place:
        expect(page.locator("#event h2")).to_have_text("Paid")
    wide = page.evaluate("""
        [document.documentElement, ...document.querySelectorAll("main, .scroll, aside")]
            .filter((node) => node.scrollWidth > node.clientWidth).map((node) => node.outerHTML.slice(0, 60))
    """)
    assert wide == []


def test_it_is_dark_where_the_system_is(show: Show, watched: Page) -> None:
    backs = []
    for scheme in ("light", "dark"):
        watched.emulate_media(color_scheme=scheme)
        page = show()
        backs.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    light, dark = (sum(map(int, re.findall(r"\d+", back)[:3])) for back in backs)
    assert light > 600
    assert dark < 150
